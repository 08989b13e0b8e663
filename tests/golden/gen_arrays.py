"""NumPy's and Pillow's own files: python tests/golden/gen_arrays.py writes tests/golden/arrays/, which tests/all/readers.rs reads.

Each array holds 0, 1, 2, … in C order (bool: every other true), so that what must come out is plain. photo.npy has the pixels of photo.jpg as Pillow decodes them. Written with numpy 2.4.6 and
Pillow 13.0.0.
"""

import os

import numpy as np
from PIL import Image

folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "arrays")
os.makedirs(folder, exist_ok=True)
path = lambda name: os.path.join(folder, name)
whole = lambda dtype: np.arange(6).astype(dtype).reshape(2, 3)
for dtype in ["u1", "i1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", ">f4", ">i2"]:
    np.save(path(dtype.replace("<", "").replace(">", "big_") + ".npy"), whole(dtype))
np.save(path("bool.npy"), whole("i4") % 2 == 0)
np.save(path("fortran.npy"), np.asfortranarray(whole("<f4")))
np.save(path("scalar.npy"), np.float32(7))
np.save(path("empty.npy"), np.zeros((0, 3), "<f4"))
np.save(path("complex.npy"), whole("<c8"))
np.save(path("records.npy"), np.zeros(2, [("a", "<i4"), ("b", "<f4")]))
np.savez(path("stored.npz"), x=whole("<f4"), y=whole("<i8"))
np.savez_compressed(path("packed.npz"), x=whole("<f4"), **{"a.b": np.zeros((50, 50), "<f4")})

y, x = np.mgrid[0:19, 0:26]
photo = np.stack([x * 9, y * 13, (x + y) * 5], -1).astype("u1")
Image.fromarray(photo).save(path("photo.jpg"), quality=95)
np.save(path("photo.npy"), np.asarray(Image.open(path("photo.jpg"))))
