#!/usr/bin/env bash
# odl 1.0.0: a nonlinear operator times a number composes in the wrong order.
#
# Expected: with A = PowerOperator(R, 2) * 2, that is A(x) = (2 x)^2, the product A * B is A after B, as for every other
# operator, and A * v for a vector v is x -> A(v x).
# Seen: A * B and A @ B are B after A, and A * v is x -> v A(x), with no error. Without the factor 2 both are right.
# genreg: repairs the product when it is imported (genreg.operators.bridge.repairs).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    array-api-compat==1.16.0 future==1.0.0 iniconfig==2.3.1 numpy==2.4.6 odl==1.0.0 packaging==26.3 \
    pluggy==1.7.0 Pygments==2.21.0 pytest==9.0.3 scipy==1.17.1 setuptools==84.2.1

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import odl

R = odl.rn(1)
square = odl.PowerOperator(R, 2)
A = square * 2.0  # x -> (2 x)^2
B = odl.PowerOperator(R, 1) + odl.ConstantOperator(R.element([3.0]), R)  # x -> x + 3
x, v = R.element([1.0]), R.element([5.0])


def number(element):
    return float(element.asarray()[0])


print("odl", odl.__version__)
print("A(1), B(1)                ", number(A(x)), number(B(x)))
print("(square * B)(1)           ", number((square * B)(x)), " expected", number(square(B(x))))
print("(A * B)(1)                ", number((A * B)(x)), "  expected", number(A(B(x))), " B(A(1)) is", number(B(A(x))))
print("(A @ B)(1)                ", number((A @ B)(x)), "  expected", number(A(B(x))))
print("(square * v)(1)           ", number((square * v)(x)), " expected", number(square(v * x)))
print("(A * v)(1)                ", number((A * v)(x)), " expected", number(A(v * x)), " v A(1) is", number(v * A(x)))

assert odl.__version__ == "1.0.0"
assert number((square * B)(x)) == 16.0 and number((square * v)(x)) == 25.0  # right without the factor
assert number(A(B(x))) == 64.0
assert number((A * B)(x)) == number((A @ B)(x)) == number(B(A(x))) == 7.0
assert number(A(v * x)) == 100.0
assert number((A * v)(x)) == number(v * A(x)) == 20.0
print("as stated")
PYTHON
