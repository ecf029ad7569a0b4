"""Every repair of ODL: the defect is there without it and gone with it. Both run in processes of their own."""

import json
import os
import subprocess
import sys

import numpy as np
import odl
import pytest
import torch

from genreg.operators.bridge import repairs

# Each probe sets `result`; True if ODL works.
PROBES = {
    "recognise_arrays_quickly": """
x = odl.rn((16, 16), impl='pytorch', dtype='float32').one()
written, plain = [], torch.Tensor.__repr__
torch.Tensor.__repr__ = lambda self, **options: (written.append(1), plain(self, **options))[1]
x.norm()  # released, ODL writes the whole tensor out as text 13 times, which is what takes the time
torch.Tensor.__repr__ = plain
result = not written
""",
    "accept_numbers_from_numpy_and_torch": """
result = True
for impl in ('numpy', 'pytorch'):
    X = odl.rn(3, impl=impl)
    for x in (X.one(), (X ** 2).one()):
        for two in (np.float64(2), np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0)):
            for f in (lambda: two * x, lambda: x * two, lambda: x / (1 / two), lambda: x + two - 1 + x - x):
                try:
                    result = result and f() == 2.0 * x
                except (RuntimeError, TypeError):
                    result = False
    try:
        result = result and X.element(np.float32(2)) == 2.0 * X.one()
    except (AttributeError, ValueError):
        result = False
""",
    "let_divergence_write_to_tensors": """
X = odl.uniform_discr([0, 0], [1, 1], (4, 5), impl='pytorch')
A, x = odl.Gradient(X), X.element(torch.rand(4, 5).double())
out = X.zero()
try:
    A.adjoint(A(x), out=out)
    result = out == A.adjoint(A(x))
except AssertionError:
    result = False
""",
    "compute_inner_products_once": """
X = odl.uniform_discr([0, 0], [1, 1], (4, 5)) ** 2
from odl.core.space.weightings import weighting
calls, original = [], weighting._inner_default
weighting._inner_default = lambda a, b: calls.append(1) or original(a, b)
X.one().inner(X.one())
result = len(calls) == 2
""",
    "sum_inner_products_accurately": """
x = torch.randn(4_000_000, generator=torch.Generator().manual_seed(0))
exact = x.double().square().sum().item()
X = odl.rn(len(x), impl='pytorch', dtype='float32')
result = abs(X.element(x).inner(X.element(x)) / exact - 1) < 1e-5
""",
    "give_elements_their_own_memory": """
x = odl.rn(3, impl='pytorch', dtype='float32').element(2.0)
x[0] = 7
result = x.data.tolist() == [7, 2, 2]
""",
    "remember_norm_estimates": """
A = odl.Gradient(odl.uniform_discr([0, 0], [1, 1], (4, 5)))
result = A.norm(estimate=True) == A.norm(estimate=True)
""",
    "give_results_their_own_memory": """
from odl import functionals as F
class Same(odl.Operator):  # an operator of the user that returns what it was given
    def _call(self, x):
        return x
result = True
for impl in ('numpy', 'pytorch'):
    C = odl.uniform_discr([0, 0], [1, 1], (4, 5), dtype='complex128', impl=impl)
    R, Q = odl.rn((4, 5), impl=impl), odl.rn(4, impl=impl) ** 2
    made = [odl.RealPart(C), odl.ImagPart(C), odl.RealPart(R), Same(R, R, linear=True), Same(Q, Q, linear=True)]
    if impl == 'numpy':  # it cannot be made on pytorch spaces
        made += [odl.FlatteningOperator(C), odl.FlatteningOperator(C).inverse]
    for A in made:
        x = A.domain.one()
        sum = A + A.range.one()
        sum(x)
        sum(x, out=A.range.element())
        if A.domain == A.range:
            F.QuadraticForm(A, A.range.one())(x)
        y = A(x)
        y.set_zero()
        result = result and x == A.domain.one()
""",
    "sum_complex_samples": """
result = True
for impl in ('numpy', 'pytorch'):
    A = odl.WeightedSumSamplingOperator(odl.cn(3, impl=impl), [[2, 2, 0]], variant='char_fun')
    try:
        result = result and (A(A.domain.element([1, 2j, 3 + 1j])) == A.range.element([3 + 1j, 0, 1 + 2j]))
    except TypeError:
        result = False
""",
    "compare_weights_of_different_kinds": """
try:
    A, B = odl.rn(3, weighting=[1.0, 2.0, 3.0]), odl.rn(3, weighting=2.0)
    result = A != B and B != A and B.one() not in A and A == odl.rn(3, weighting=[1.0, 2.0, 3.0])
    result = result and odl.rn(3, weighting=[1.0, 2.0, 4.0]) != A and len(odl.ProductSpace(A, B)) == 2
    result = result and odl.rn(3, inner=lambda x, y: 1.0) != odl.rn(3, norm=lambda x: 1.0)
except AttributeError:
    result = False
""",
    "compose_scaled_operators_in_order": """
R = odl.rn(2)
A, B, v = odl.PowerOperator(R, 2) * 2.0, odl.IdentityOperator(R) + R.one(), R.element([3.0, 5.0])
result = (A * B)(R.one()) == A(B(R.one())) and (A * v)(R.one()) == A(v)
f = odl.functionals.L1Norm(R) * 2.0
result = result and (f * B)(R.one()) == f(B(R.one())) and (f * v)(R.one()) == f(v)
""",
    "pickle_operators": """
import pickle
from odl.applications import tomo
X = odl.uniform_discr([0, 0], [1, 1], (4, 5))
fan = tomo.FanBeamGeometry(odl.uniform_partition(0, 3, 4), odl.uniform_partition(-1, 1, 5), 2, 2)
ray = tomo.RayTransform(X.astype('float32'), tomo.parallel_beam_geometry(X, 2), impl='skimage')
pair = odl.ResizingOperator(X, ran_shp=(6, 6))
f = odl.functionals.L1Norm(X)
gradient = (f * (2 * odl.IdentityOperator(X))).gradient
things = [(odl.MatrixOperator(np.eye(3)), 3), (pair.adjoint, pair.range), (gradient, X)]
try:
    result = not pickle.loads(pickle.dumps(fan)).src_shift_func(0.1).any()
    for thing, space in things:
        x = (odl.rn(3) if space == 3 else space).one()
        result = result and pickle.loads(pickle.dumps(thing))(x) == thing(x)
    ray.adjoint
    result = result and pickle.loads(pickle.dumps(ray.adjoint)).domain == ray.range
except (AttributeError, TypeError):
    result = False
""",
    "default steps of pdhg": """
from odl import functionals as F
result = True
for impl in ('numpy', 'pytorch'):
    X = odl.uniform_discr([0, 0], [1, 1], (4, 5), impl=impl)
    A, y, x = odl.Gradient(X, pad_mode='symmetric'), X.one(), X.zero()
    try:
        odl.solvers.pdhg(x, F.L2NormSquared(X).translated(y), 0.1 * F.GroupL1Norm(X ** 2), A, niter=60)
        result = result and (x - y).norm() < 1e-2
    except (RuntimeError, AssertionError):
        result = False
""",
}

# The imports of other packages take longest, and the two processes share them.
SCRIPT = """
import contextlib, json, os, sys
import pytest, scipy.linalg, scipy.sparse.linalg, torch  # as ODL does
with contextlib.suppress(ImportError):
    import astra

def report(before, switch, value, probes):
    os.environ[switch] = value
    exec(before, {})
    import genreg.operators
    import odl, numpy as np
    results = {}
    for name, probe in probes.items():
        scope = dict(odl=odl, np=np, torch=torch)
        exec(probe, scope)
        results[name] = bool(scope["result"])
    options = np.get_printoptions()
    results["printing"] = [options["legacy"], options["linewidth"], repr(np.float64(1.5))]
    results["environment"] = os.environ.get("SCIPY_ARRAY_API")
    print(json.dumps(results), flush=True)

runs, probes = json.load(sys.stdin)
assert not {"odl", "genreg"} & set(sys.modules)
for run in runs:
    child = os.fork()
    if not child:
        report(*run, probes)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""

USE_ODL = """
import odl
X = odl.uniform_discr([0, 0], [1, 1], (4, 5), impl='pytorch')
odl.Gradient(X).adjoint(odl.Gradient(X)(X.one()))
X.one().inner(X.one())
"""


@pytest.fixture(scope="module")
def processes():
    """Results without the repairs, and with them where ODL had been used before the import of genreg."""
    options = "import numpy as np\nnp.set_printoptions(linewidth=60, precision=3)\n"
    runs = [(options, repairs.SWITCH, "1"), (USE_ODL, repairs.SWITCH, "0")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        input=json.dumps([runs, PROBES]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if k != "SCIPY_ARRAY_API"},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


# Not by whether the repairs are active: that they are is what is tested.
@pytest.mark.skipif(odl.__version__ not in repairs.AFFECTED_VERSIONS, reason="this ODL has no known defects")
@pytest.mark.skipif(os.environ.get(repairs.SWITCH, "0") == "1", reason="the user switched the repairs off")
@pytest.mark.parametrize("name", PROBES)
class TestRepair:
    def test_defect_is_gone(self, name):
        scope = {"odl": odl, "np": np, "torch": torch}
        exec(PROBES[name], scope)
        assert scope["result"]

    def test_defect_is_there_without_the_repair(self, name, processes):
        assert not processes[0][name]

    def test_defect_is_gone_where_odl_was_used_before(self, name, processes):
        assert processes[1][name]


def test_every_repair_has_a_probe():
    assert {repair.__name__ for repair in repairs._REPAIRS} <= set(PROBES)


def test_side_effects_of_the_import_are_undone(processes):
    fresh, used = processes
    assert fresh["printing"] == [False, 60, "np.float64(1.5)"] and fresh["environment"] is None
    assert used["printing"] == [False, 75, "np.float64(1.5)"]


@pytest.mark.parametrize("mine", [{"legacy": "1.13", "linewidth": 80}, {"legacy": False, "linewidth": 71}])
def test_print_options_of_the_user_stay(mine):
    before = np.get_printoptions()
    try:
        np.set_printoptions(**mine)
        repairs._import_odl()
        assert {k: np.get_printoptions()[k] for k in mine} == mine
    finally:
        np.set_printoptions(legacy=before["legacy"], linewidth=before["linewidth"])


def test_other_versions_are_left_alone(monkeypatch):
    monkeypatch.setattr(odl, "__version__", "1.0.1")
    assert not repairs._apply()
    monkeypatch.setattr(odl, "__version__", "1.0.0")
    monkeypatch.setenv(repairs.SWITCH, "1")
    assert not repairs._apply()
