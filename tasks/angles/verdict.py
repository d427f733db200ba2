"""Does the law hold? One verdict over all dimensions and all tests.

Source: Su Jianlin, kexue.fm/archives/7076, for the table of variances. Idea: with α = 1 % shared evenly among all tests
of all rows (Bonferroni), a true law is rejected by one study in a hundred at most; and the exact variance must give
every digit that the post prints.

>>> seen = {"samples": 9, "ks/distance": 0.1, "ks/distance_low": 0.0, "ks/distance_high": 0.2, "ks/p_value": 0.5}
>>> rows = [Row(f"t{n}", {}, {**seen, "dimension": n, "variance/exact": float(v)}) for n, v in TABLE.items()]
>>> conclude(rows).support.value, conclude(rows[:3]).support.value
('supported', 'undecided')
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.api import Row, Support, Verdict

TABLE = {
    3: "0.467401", 10: "0.110661", 20: "0.0525832", 50: "0.0204053", 100: "0.0101007", 200: "0.00502508",
    1000: "0.001001",
}  # fmt: skip
"""The post's variances of θ by dimension, in its digits."""
LEVEL = 0.01


def conclude(rows: Sequence[Row]) -> Verdict:
    """Supported: no test rejects the law and the whole table is there, digit for digit."""
    tests = [(p, row, name) for row in rows for name, p in row.metrics.items() if name.endswith("p_value")]
    each = LEVEL / len(tests)
    rejected = sorted((test for test in tests if test[0] < each), key=lambda test: test[0])
    wrong = [n for n, exact in _variances(rows).items() if n in TABLE and not _same_digits(exact, TABLE[n])]
    missing = [n for n in TABLE if n not in _variances(rows)]
    found = f"{_least(tests)}; {_widest(rows)}"
    if rejected:
        p, row, name = rejected[0]
        return Verdict(
            Support.NOT_SUPPORTED,
            f"{len(rejected)} of {len(tests)} tests reject the law at 1 % after Bonferroni (p < {each:.2g} each), most "
            f"clearly {name} = {p:.2g} at n = {_dimension(row)}; {_widest(rows)}.",
        )
    if wrong:
        return Verdict(
            Support.NOT_SUPPORTED,
            f"The variance of the law does not have the digits of the post's table at n = {_listed(wrong)}; {found}.",
        )
    if missing:
        return Verdict(
            Support.UNDECIDED,
            f"No test rejects the law, but the post's table is not reproduced: n = {_listed(missing)} did not run; "
            f"{found}.",
        )
    return Verdict(
        Support.SUPPORTED,
        f"The law holds in all {len(_variances(rows))} dimensions, and the {len(TABLE)} variances of the post's table "
        f"are reproduced to their digits; {found}.",
    )


def _variances(rows: Sequence[Row]) -> dict[int, float]:
    return {_dimension(row): row.metrics["variance/exact"] for row in rows}


def _dimension(row: Row) -> int:
    return int(row.metrics["dimension"])


def _same_digits(exact: float, printed: str) -> bool:
    """Whether a number, rounded to as many places as were printed, is what was printed."""
    places = len(printed.partition(".")[2])
    return f"{exact:.{places}f}" == printed


def _least(tests: Sequence[tuple[float, Row, str]]) -> str:
    p, row, name = min(tests, key=lambda test: test[0])
    return (
        f"the least of {len(tests)} p-values is {p:.2g} ({name} at n = {_dimension(row)}), where Bonferroni at 1 % "
        f"rejects below {LEVEL / len(tests):.2g}"
    )


def _widest(rows: Sequence[Row]) -> str:
    row = max(rows, key=lambda row: row.metrics["ks/distance"])
    at = row.metrics
    return (
        f"the largest distance of a sample's distribution function from the law's is {at['ks/distance']:.2g} "
        f"(95 % {at['ks/distance_low']:.2g} … {at['ks/distance_high']:.2g}, n = {_dimension(row)}, "
        f"{int(at['samples']):,} samples)"
    )


def _listed(dimensions: Sequence[int]) -> str:
    return ", ".join(str(n) for n in dimensions)
