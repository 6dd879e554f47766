import numpy as np
import pytest
import scipy.fft

from big_audio.models import tokens as T

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 8, 12, 3)).astype(np.float32)
WAV = (0.1 * RNG.standard_normal((2, 960, 2))).astype(np.float32)


@pytest.mark.parametrize(
  "name, x, kw, shape",
  [
    ("flat", IMAGE, {}, (1, 288)),
    ("patch", IMAGE, {}, (6, 48)),
    ("block_dct", IMAGE, {}, (6, 48)),
    ("row_dct", IMAGE, {}, (8, 36)),
    ("reshape", WAV, {"patch": 120}, (8, 240)),
    ("mdct", WAV, {"hop": 120}, (9, 240)),
    ("mdct", WAV, {"hop": 128}, (9, 256)),  # any length
  ],
)
def test_shapes_and_exact_inverse(name, x, kw, shape):
  tokens = T.build(name, "wav" if x is WAV else "image", **kw)
  assert tokens.shape(x.shape[1:]) == shape
  y = tokens.analysis(x)
  assert y.shape == (2, *shape)
  np.testing.assert_allclose(tokens.synthesis(y, x.shape[1:]), x, atol=2e-5)


def test_block_dct_is_scipys():
  got = np.asarray(T.build("block_dct", "image").analysis(IMAGE)).reshape(2, 2, 3, 4, 4, 3)
  for i in range(2):
    for j in range(3):
      block = IMAGE[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
      want = scipy.fft.dctn(block, axes=(1, 2), norm="ortho")
      np.testing.assert_allclose(got[:, i, j], want, atol=1e-5)


def test_row_dct_is_scipys():
  got = T.build("row_dct", "image").analysis(IMAGE).reshape(IMAGE.shape)
  np.testing.assert_allclose(got, scipy.fft.dct(IMAGE, axis=2, norm="ortho"), atol=1e-5)


def test_patches_are_in_reading_order():
  got = np.asarray(T.build("patch", "image").analysis(IMAGE))
  np.testing.assert_array_equal(got[:, 4], IMAGE[:, 4:8, 4:8].reshape(2, -1))


def test_compression():
  tokens = T.build("mdct", "wav", hop=120, power=0.5)
  plain = T.build("mdct", "wav", hop=120, power=1.0).analysis(WAV)
  want = np.sign(plain) * np.abs(plain) ** 0.5
  np.testing.assert_allclose(tokens.analysis(WAV), want, atol=3e-3)


@pytest.mark.parametrize("name, kw", [("mdct", {"hop": 120}), ("reshape", {"patch": 120})])
def test_masks_mark_the_tokens_that_samples_reach(name, kw):
  tokens = T.build(name, "wav", **kw)
  mask = np.zeros((1, 960), bool)
  mask[:, 250:300] = True
  x = np.where(mask[..., None], WAV[:1], 0)
  touched = np.abs(np.asarray(tokens.analysis(x))).sum(-1) > 0
  np.testing.assert_array_equal(tokens.mask(mask), touched)


@pytest.mark.parametrize(
  "call, words",
  [
    (lambda: T.build("mdtc", "wav"), '"mdct"'),
    (lambda: T.build("patch", "wav"), "are of image; for wav: mdct, reshape"),
    (lambda: T.build("mdct", "wav", hpo=3), '"hop"'),
    (lambda: T.build("patch", "image", patch=5).analysis(IMAGE), "Sizes that fit: 1, 2, 4"),
    (lambda: T.build("reshape", "wav").analysis(WAV), "Crop to 896 or pad to 1024"),
    (lambda: T.build("flat", "image").analysis(WAV), r"expected image \[H, W, C\]"),
  ],
)
def test_errors(call, words):
  with pytest.raises(ValueError, match=words):
    call()
