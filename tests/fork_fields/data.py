"""Fields that forks give to data layers: the order of a database's records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from field_checks import images_of, open_layer, shows, write_records

from converters.errors import DataError

SETTINGS = 'data_param { source: "db" batch_size: 4 shuffle: true }'


@shows("Data", "data_param.shuffle")
def each_round_has_an_order_of_its_own(folder: Path) -> None:
    """Every record once a round, the batch across two rounds included; a restored reader goes on.

    Records of 3 × 6 × 6 lie in the leaves, those of 3 × 50 × 50 in pages of their own.
    """
    for number, size in enumerate((6, 50)):
        here = folder / str(number)
        here.mkdir()
        images = images_of(10, (3, size, size))
        write_records(here, images)
        reader = open_layer("Data", SETTINGS, here, "TRAIN")
        batches = [reader.next() for _ in range(4)]
        state = reader.state()
        batches += [reader.next() for _ in range(6)]
        labels = np.concatenate([batch["label"] for batch in batches]).astype(int)
        rounds = labels.reshape(4, 10)
        assert all(sorted(one) == list(range(10)) for one in rounds.tolist())
        assert len({tuple(one) for one in rounds.tolist()}) == 4
        data = np.concatenate([batch["data"] for batch in batches])
        np.testing.assert_array_equal(data, [images[label] for label in labels])
        again = open_layer("Data", SETTINGS, here, "TRAIN")
        again.restore(state)
        for batch in batches[4:]:
            np.testing.assert_array_equal(again.next()["data"], batch["data"])
    (folder / "damaged").mkdir()
    a_damaged_record_is_named_by_its_key(folder / "damaged")


def a_damaged_record_is_named_by_its_key(folder: Path) -> None:
    import lmdb

    write_records(folder, images_of(10))
    with lmdb.open(str(folder / "db"), map_size=2**22) as env, env.begin(write=True) as txn:
        txn.put(b"%08d" % 7, b"\x08\x03")
    reader = open_layer("Data", SETTINGS, folder, "TRAIN")
    with pytest.raises(DataError, match="record '00000007'"):
        for _ in range(3):
            reader.next()
