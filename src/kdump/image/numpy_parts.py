"""Parts of NumPy that it imports for their names only, and that nothing here calls: half of its import's time.

The capture image has stand-ins for them (`kdump.image.stand_ins`).
"""

from __future__ import annotations

# Polynomials, files of arrays, matrices, linear algebra ...
UNCALLED = (
    "numpy._core.einsumfunc",
    "numpy._core.records",
    "numpy.lib._arraypad_impl",
    "numpy.lib._format_impl",
    "numpy.lib._function_base_impl",
    "numpy.lib._histograms_impl",
    "numpy.lib._index_tricks_impl",
    "numpy.lib._nanfunctions_impl",
    "numpy.lib._npyio_impl",
    "numpy.lib._polynomial_impl",
    "numpy.lib._scimath_impl",
    "numpy.lib._stride_tricks_impl",
    "numpy.lib._twodim_base_impl",
    "numpy.lib._type_check_impl",
    "numpy.lib._ufunclike_impl",
    "numpy.lib._utils_impl",
    "numpy.linalg",
    "numpy.matrixlib",
    "numpy.matrixlib.defmatrix",
)
DOCUMENTATION = ("numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars")
ANNOTATIONS = ("numpy.typing", "numpy._typing")

STARRED = {"numpy._core.einsumfunc": ["einsum", "einsum_path"]}  # what `import *` shall bring; of the others, nothing
HANDED_ON = {"numpy.lib._npyio_impl": ["packbits", "unpackbits"]}  # numpy._core._multiarray_umath's, and called
COUNTING = ("numpy.lib._function_base_impl", "diff")  # the one function of it that others of NumPy's call
