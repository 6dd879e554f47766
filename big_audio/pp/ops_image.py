"""Operations on pictures: `image` u8 or f32 [H,W,C]."""

import io

import numpy as np

from big_audio.datasets.errors import DecodeError
from big_audio.pp.registry import OpError, of_any_length, op, take


@op("decode_image")
def decode_image(channels: int = 3, *, key: str = "image"):
  """Bytes of a png, jpeg, gif (first frame) or webp file -> u8[H,W,channels] (1 or 3).

  Raises:
    DecodeError: the bytes are not a picture; training draws another example.
  """
  if channels not in (1, 3):
    raise OpError(f"needs channels=1 or channels=3, got {channels}.")

  def fn(example, rng):
    from PIL import Image, UnidentifiedImageError

    data = take(example, key)
    if not isinstance(data, bytes):
      raise OpError(f'needs the bytes of a picture in "{key}", got {type(data).__name__}.')
    try:
      with Image.open(io.BytesIO(data)) as picture:
        x = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as e:
      raise DecodeError(f'"{example.get("id", key)}" is not a readable picture: {e}') from e
    return {**example, key: x.reshape(*x.shape[:2], channels)}

  return fn


@op("resize")
def resize(height: int, width: int | None = None, *, key: str = "image"):
  """[H,W,C] -> [height,width,C], bilinear with antialiasing; u8 stays u8, floats become f32."""
  width = height if width is None else width

  def fn(example, rng):
    from PIL import Image

    x = np.asarray(of_any_length(example, key))
    if x.ndim != 3:
      raise OpError(f'needs "{key}" as [H,W,C], got shape {x.shape}.')
    if x.shape[:2] == (height, width):
      return example
    planes = x if x.dtype == np.uint8 else x.astype(np.float32)
    # Plane by plane: Pillow's float mode has one channel.
    planes = [
      Image.fromarray(np.ascontiguousarray(planes[..., c])).resize(
        (width, height), Image.Resampling.BILINEAR
      )
      for c in range(x.shape[2])
    ]
    return {**example, key: np.stack([np.asarray(p) for p in planes], axis=-1)}

  return fn


@op("flip_lr")
def flip_lr(prob: float = 0.5, *, key: str = "image"):
  """Mirrors [H,W,C] left to right with probability `prob`."""

  def fn(example, rng):
    x = take(example, key)
    return {**example, key: x[:, ::-1] if rng.random() < prob else x}

  return fn
