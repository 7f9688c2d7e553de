"""Filter, compress, write: page classes, codecs, writers, the pipeline."""
