"""Whether the data that a problem needs is there; imports nothing heavy before it must."""

from __future__ import annotations

from pathlib import Path

from tasks.api import InputError
from tasks.ebgan.params import BUILT_IN, EbganParams


def check_data(params: EbganParams, data: Path | None) -> None:
    """Report missing and needless data before anything starts."""
    if params.problem in BUILT_IN:
        if data is not None:
            raise InputError(f"params.problem={params.problem} is built in: leave out data={data}, or name another one")
    elif data is None:
        raise InputError(f"params.problem={params.problem} needs its data: give data=FOLDER")
    elif not data.exists():
        raise InputError(f"{data} does not exist")
    elif params.problem == "kdd99":
        from tasks.ebgan.kdd import find_file

        find_file(data)
    elif params.problem == "cifar10":
        from tasks.ebgan.pictures import check_cifar

        check_cifar(data)
    else:
        from tasks.multilabel.digits import check_folder

        check_folder(data)
