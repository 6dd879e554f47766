"""The error that separates a broken item from a broken program."""


class DecodeError(ValueError):
  """One item of a source cannot be decoded; the others can.

  Sources and preprocessing raise it for damaged files. Training draws another item in its place
  and counts it (`input_pipeline`); evaluation stops, because its set of items is its meaning.
  """
