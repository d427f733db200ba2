"""The exact law against closed forms, an independent integration in many digits, and the reference's numbers."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tasks.angles.approximations import better_variance, distance, post_variance
from tasks.angles.exact import Angle
from tasks.api import InputError

DIMENSIONS = (2, 3, 4, 5, 10, 50, 512, 4096, 10**5, 10**6)
DEVIATIONS = (0.0, 1e-9, 0.01, 0.7, 3, 10, 30, 61, 300)  # from π/2, in units of 1/√n


def integral(n: int, theta: float) -> mp.mpf:
    """P(Θ ≤ θ) for θ ≤ π/2, by quadrature of the density over the scale on which it falls."""
    theta = mp.mpf(theta)
    scale = 1 / (n * mp.cot(theta) + mp.sqrt(n))
    points = sorted({max(mp.mpf(0), theta - k * scale) for k in (0, 1, 3, 7, 15, 30, 60, 120)})
    points = [mp.mpf(0), *points] if n < 50 and points[0] > 0 else points
    end = mp.sin(theta)
    area = mp.quad(lambda t: (mp.sin(t) / end) ** (n - 2), points) * end ** (n - 2)
    return area * norm(n)


def norm(n: int) -> mp.mpf:
    return mp.exp(mp.loggamma(mp.mpf(n) / 2) - mp.loggamma(mp.mpf(n - 1) / 2)) / mp.sqrt(mp.pi)


def relative(found: float, true: mp.mpf) -> float:
    return float(abs(mp.mpf(float(found)) / true - 1)) if true else abs(float(found))


@pytest.mark.parametrize("n", DIMENSIONS)
def test_agrees_with_an_integration_in_40_digits(n):
    angle = Angle(n)
    with mp.workdps(40):
        for deviation in DEVIATIONS:
            theta = math.pi / 2 - deviation / math.sqrt(n)
            if theta <= 0:
                continue
            lower = integral(n, theta)
            density = norm(n) * mp.sin(mp.mpf(theta)) ** (n - 2)
            assert relative(angle.logcdf(theta), mp.log(lower)) < 1e-10
            assert relative(angle.logpdf(theta), mp.log(density)) < 1e-10
            if lower > mp.mpf("1e-290"):
                assert relative(angle.cdf(theta), lower) < 1e-10
                assert relative(angle.sf(theta), 1 - lower) < 1e-10
                assert relative(angle.pdf(theta), density) < 1e-10
                assert relative(angle.quantile(float(lower)), mp.mpf(theta)) < 1e-10


@pytest.mark.parametrize(
    ("n", "theta"),
    [(2, 1e-300), (3, 1e-200), (5, 1e-150), (10, 1e-100), (100, 1e-8), (4096, 0.6), (10**6, 1.50), (10**6, 0.1)],
)
def test_probabilities_far_below_the_smallest_float(n, theta):
    with mp.workdps(60):
        true = mp.log(integral(n, theta)) / mp.log(10)
        assert true < -199
        assert relative(Angle(n).logcdf(theta) / math.log(10), true) < 1e-10
        mirrored = math.pi - theta
        if theta > 0.01:  # else π − θ is rounded too far from what is meant
            assert relative(Angle(n).logsf(mirrored) / math.log(10), true) < 1e-10


def test_a_probability_of_1e_800():
    theta = 0.6927
    with mp.workdps(60):
        true = mp.log(integral(4096, theta)) / mp.log(10)
        assert -802 < true < -798
        assert relative(Angle(4096).logcdf(theta) / math.log(10), true) < 1e-10


def test_near_zero_it_is_a_power():
    """P(Θ ≤ θ) → θ^{n−1} / ((n−1)·B((n−1)/2, ½))."""
    angle = Angle(7)
    exact = 6 * math.log(1e-60) - math.log(6) - (math.lgamma(3) + math.lgamma(0.5) - math.lgamma(3.5))
    assert float(angle.logcdf(1e-60)) == pytest.approx(exact, rel=1e-13)
    assert float(angle.logsf(math.pi - 1e-8)) == pytest.approx(float(angle.logcdf(1e-8)), rel=1e-9)


def test_the_plane_and_space_have_closed_forms():
    theta = np.linspace(1e-6, math.pi - 1e-6, 101)
    assert Angle(2).pdf(theta) == pytest.approx(np.full(101, 1 / math.pi), rel=1e-13)
    assert Angle(2).cdf(theta) == pytest.approx(theta / math.pi, rel=1e-12)
    assert Angle(3).pdf(theta) == pytest.approx(np.sin(theta) / 2, rel=1e-12)
    assert Angle(3).cdf(theta) == pytest.approx(np.sin(theta / 2) ** 2, rel=1e-12)
    assert Angle(2).variance == pytest.approx(math.pi**2 / 12, rel=1e-14)
    assert Angle(3).variance == pytest.approx(math.pi**2 / 4 - 2, rel=1e-13)
    assert Angle(2).fourth_cumulant == pytest.approx(-(math.pi**4) / 120, rel=1e-13)


@pytest.mark.parametrize("n", [2, 3, 8, 100])
def test_cumulants_are_those_of_the_density(n):
    angle = Angle(n)
    with mp.workdps(30):

        def moment(k):
            half = mp.quad(lambda d: d**k * mp.cos(d) ** (n - 2), [0, mp.mpf(3) / mp.sqrt(n), mp.pi / 2])
            return 2 * half * norm(n)

        assert relative(angle.variance, moment(2)) < 1e-12
        assert relative(angle.fourth_cumulant, moment(4) - 3 * moment(2) ** 2) < 1e-10


def test_cotangent_is_students_t():
    theta = np.array([0.8, 1.3, 1.5, 1.7, 2.0])
    expected = stats.t(19).cdf(-math.sqrt(19) / np.tan(theta))
    assert Angle(20).cdf(theta) == pytest.approx(expected, rel=1e-12)


def test_the_references_tails():
    found = np.exp(Angle(512).log_tail([0.1, 0.2, 0.3, 0.5]))
    assert [f"{p:.6g}" for p in found] == ["0.0235062", "4.99368e-06", "3.95636e-12", "8.39839e-34"]
    assert f"{float(Angle(4096).logcdf(math.acos(0.6))):.2f}" == "-918.34"


def test_the_table_of_variances():
    found = {n: f"{Angle(n).variance:.6g}" for n in (3, 10, 20, 50, 100, 200, 1000)}
    assert found == {
        3: "0.467401", 10: "0.110661", 20: "0.0525832", 50: "0.0204053", 100: "0.0101007", 200: "0.00502508",
        1000: "0.001001",
    }  # fmt: skip


@given(n=st.sampled_from(DIMENSIONS), p=st.floats(1e-300, 1, exclude_max=True))
def test_quantile_inverts_the_distribution_function(n, p):
    angle = Angle(n)
    theta = angle.quantile(p)
    assert 0 < theta < math.pi
    # 1 − p has lost digits when p is near 1, and so has π − θ when that is near 0
    assert float(angle.cdf(theta)) == pytest.approx(p, rel=1e-11)


@given(n=st.integers(2, 10**6), deviation=st.floats(0, 1.57))
def test_symmetry_and_complement(n, deviation):
    angle = Angle(n)
    assert float(angle.central(-deviation)) == -float(angle.central(deviation))
    above = math.pi / 2 + deviation
    assert float(angle.cdf(above)) + float(angle.sf(above)) == pytest.approx(1, abs=1e-14)
    assert float(angle.cdf(above)) == pytest.approx(0.5 + float(angle.central(deviation)), rel=1e-9)


@given(n=st.integers(2, 10**6), a=st.floats(1e-3, math.pi), b=st.floats(1e-3, math.pi))
def test_the_distribution_function_increases(n, a, b):
    low, high = Angle(n).logcdf(np.sort([a, b]))
    assert low <= high + 1e-13 * abs(high)


@pytest.mark.parametrize("n", DIMENSIONS)
def test_the_centre_keeps_its_digits(n):
    """P(0 ≤ Θ − π/2 ≤ δ) where F_n(π/2 + δ) − ½ would have cancelled."""
    for delta in (1e-12, 1e-6, 1e-3, 0.5 / math.sqrt(n), 3 / math.sqrt(n)):
        with mp.workdps(40):
            area = mp.quad(lambda d: mp.cos(d) ** (n - 2), mp.linspace(0, min(delta, math.pi / 2), 5)) * norm(n)
            assert relative(Angle(n).central(delta), area) < 1e-10


def test_ends_and_shapes():
    angle = Angle(5)
    assert angle.cdf([-1, 0, math.pi, 4]).tolist() == [0, 0, 1, 1]
    assert angle.pdf([-0.1, 3.2]).tolist() == [0, 0]
    assert angle.quantile([0, 0.5, 1]).tolist() == [0, math.pi / 2, math.pi]
    assert angle.log_tail([-0.5, 0, 1]).tolist() == [0, 0, -math.inf]
    assert math.isnan(angle.pdf(math.nan))
    assert angle.pdf(np.ones((2, 3))).shape == (2, 3)
    assert angle.mean == math.pi / 2
    assert "n=5" in repr(angle)


@pytest.mark.parametrize("n", [1, 0, -3, 2.5, 10**6 + 1])
def test_impossible_dimensions_are_refused(n):
    with pytest.raises(InputError, match=f"n={n}: directions need a whole number of dimensions from 2"):
        Angle(n)


def test_impossible_probabilities_are_refused():
    with pytest.raises(InputError, match="from 0 to 1"):
        Angle(3).quantile(1.5)


@pytest.mark.parametrize("n", [3, 10, 1000])
@pytest.mark.parametrize("variance", [post_variance, better_variance])
def test_the_normal_approximations_error_is_the_greatest_on_a_grid(n, variance):
    v = variance(n)
    theta = np.linspace(0, math.pi, 200_001)
    gaps = np.abs(Angle(n).cdf(theta) - stats.norm(math.pi / 2, math.sqrt(v)).cdf(theta))
    assert distance(n, v) == pytest.approx(gaps.max(), rel=1e-6)
    assert distance(n, v) >= gaps.max() * (1 - 1e-12)


def test_one_over_n_minus_one_is_the_better_variance():
    for n in (3, 10, 100, 4096):
        assert distance(n, better_variance(n)) < distance(n, post_variance(n))
    with pytest.raises(InputError, match="n=3"):
        post_variance(2)
