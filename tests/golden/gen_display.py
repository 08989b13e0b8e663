"""How NumPy prints arrays: python gen_display.py (written with numpy 2.4.6).

Each case of display.txt: a line `dtype [shape] values…`, the text between lines of `---`. Floats are given as bits. `arange` stands for 0, 1, …"""
import numpy as np

nan, inf = np.nan, np.inf
rng = np.random.default_rng(0)
cases = []
for dtype in ("f4", "f8", "f2"):
    for values, shape in [
        ([1, 2, 3, 4, 5, 6], (2, 3)), ([1.5, 0.25, -3], (3,)), ([0.1, 0.2, 1 / 3], (3,)), ([-0.0, 0.0], (2,)), ([1e-5, 1], (2,)), ([1e-4, 1e-2], (2,)),
        ([1e-3, 1], (2,)), ([1e-3, 1.01], (2,)), ([999.0, 2.0], (2,)), ([1000.0, 2.0], (2,)), ([1e5, 999], (2,)), ([1e6, 1e4], (2,)),
        ([1e8, 1e7], (2,)), ([123456.789, 1000], (2,)), ([nan], (1,)), ([inf, -inf, nan], (3,)), ([nan, -1.5], (2,)), ([-inf, 1.0], (2,)), ([inf, 0.125], (2,)),
        ([inf, 1e-9], (2,)), ([-inf, -1e20], (2,)), ([6e-8, -6e-8], (2,)), ([1e-40, 1e30], (2,)), ([1e-300, 1e300], (2,)), ([3.4e38, -1.2e-38], (2,)),
        ([2 / 3, 200 / 3, 2000 / 3], (3,)), ([1.23456789012, 9.87654321098], (2,)), ([0.5], (1, 1, 1)), ([1, -2, 3, -4, 5, -6, 7, 8], (2, 2, 2)), ([0, 0], (2,)),
        ([], (0,)), ([], (2, 0)), ([], (0, 3)), ([0.1] * 30, (30,)), ([1.25, 100.125] * 12, (2, 12)), ([0.1, 12.5] * 13, (1, 1, 1, 26)),
        ([-1e-7, 2.0] * 10, (20,)), ([1 / 3] * 24, (2, 1, 12)), ([1 / 3] * 6, (1, 6)), ([1 / 3] * 7, (7,)), ([1 / 3] * 14, (14,)), ([12345.678] * 8, (8,)),
    ]:
        with np.errstate(all="ignore"):
            cases.append(np.array(values, dtype).reshape(shape))
    for v in [1.0, 0.1, -0.0, 0.0, nan, -inf, 1 / 3, 123.5, 999, 1000, 65504, 123456.79, 999999, 1e6, 1e7, 1e8, 1e15, 1e16, 9.9e15, 1e-4, 1e-5, 2e-4, -1e-9, 1e38, 1e300]:
        with np.errstate(all="ignore"):
            cases.append(np.array(v, dtype))
    for shape in [(7,), (40,), (3, 4), (2, 3, 4), (9, 11)]:
        for scale in [1, 100, 1e-3]:
            with np.errstate(all="ignore"):
                cases.append((rng.standard_normal(shape) * scale).astype(dtype))
for dtype in ("i4", "i8", "u4", "u1"):
    for values, shape in [([1, 2, 3], (3,)), ([1, 100, 7, 0], (2, 2)), ([5], ()), ([], (0,)), ([7] * 60, (60,)), ([100, 1] * 20, (2, 20))]:
        cases.append(np.array(values, dtype).reshape(shape))
cases += [np.array([-1, 20, -300], "i4"), np.array([-(2**31), 2**31 - 1], "i4"), np.array([-(2**63), 2**63 - 1], "i8"), np.array(2**32 - 1, "u4"), np.array(-7, "i4")]
for values, shape in [([True, False, True], (3,)), ([True], ()), ([False], ()), ([True] * 20, (20,)), ([True, False] * 2, (2, 2)), ([False] * 24, (2, 12))]:
    cases.append(np.array(values, "?").reshape(shape))
big = []
for dtype in ("f4", "i4"):
    for shape in [(1000,), (1001,), (2000,), (50, 50), (6, 200), (7, 150), (11, 10, 10), (10, 10, 11), (2, 3, 4, 50), (1200, 1), (1, 1200), (5, 7, 40), (8, 3, 50)]:
        big.append(np.arange(np.prod(shape), dtype=dtype).reshape(shape))

name = {"f4": "f32", "f8": "f64", "f2": "f16", "i4": "i32", "i8": "i64", "u4": "u32", "u1": "u8", "b1": "bool"}
with open(__file__.replace("gen_display.py", "display.txt"), "w") as f:
    for a in cases + big:
        if any(a is b for b in big):
            values = ["arange"]
        elif a.dtype.kind == "f":
            values = [format(int(b), "x") for b in a.reshape(-1).view(f"u{a.dtype.itemsize}")]
        else:
            values = [str(int(v)) for v in a.reshape(-1)]
        f.write(" ".join([name[a.dtype.str[1:]], ",".join(map(str, a.shape)) or "-", *values]) + "\n" + str(a) + "\n---\n")
