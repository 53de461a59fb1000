"""What h5py sees in a results file: read_results.py results/x.h5. Fails with what is not as src/storage/results.h says."""
import sys
import zlib

import h5py
import numpy as np

INT, FLOAT, TEXT = "int64", "float64", "text"
TABLES = {
    "rounds": dict(round=INT, seconds=FLOAT, idle_share=FLOAT, train_loss=FLOAT, test_loss=FLOAT, test_accuracy=FLOAT,
                   cohort=INT, failed=INT, diverged=INT, stragglers=INT, lost=INT, set_aside=INT,
                   partial=INT, absent=INT, samples=INT, bytes_down=INT, bytes_up=INT, bytes_state=INT),
    "clients": dict(round=INT, client=INT, rank=INT, samples=INT, steps=INT, samples_seen=INT, status=INT,
                    weight=FLOAT, loss=FLOAT, loss_before=FLOAT, loss_after=FLOAT, delta_norm=FLOAT, seconds=FLOAT,
                    model=INT),
    "ranks": dict(rank=INT, host=TEXT, device=TEXT, compute_seconds=FLOAT, wait_seconds=FLOAT, comm_seconds=FLOAT,
                  evaluate_seconds=FLOAT),
}


def is_text(dtype):
    info = h5py.check_string_dtype(dtype)
    return info is not None and info.encoding == "utf-8"


def checksum(data):
    return f"{zlib.crc32(data):08x}{zlib.adler32(data):08x}"


def check_table(file, name, columns):
    group = file[name]
    assert set(group) == set(columns), f"/{name} has {sorted(group)}, not {sorted(columns)}"
    lengths = {column: group[column].shape for column in columns}
    assert len(set(lengths.values())) == 1 and len(group["rank" if name == "ranks" else "round"].shape) == 1, \
        f"/{name}'s columns differ in length: {lengths}"
    for column, kind in columns.items():
        dtype = group[column].dtype
        assert is_text(dtype) if kind == TEXT else dtype == kind, f"/{name}/{column} is {dtype}, not {kind}"
    return {column: group[column].asstr()[:] if kind == TEXT else group[column][:] for column, kind in columns.items()}


def check_attributes(group):
    assert len(group.attrs) > 0, f"{group.name} has no attributes"
    for key, value in group.attrs.items():
        assert isinstance(value, str), f"attribute {key} of {group.name} is {type(value)}, not str"


def check_partition(group):
    offsets, indices = group["offsets"][:], group["indices"][:]
    assert offsets.dtype == indices.dtype == group["size"].dtype == group["histogram"].dtype == np.int64
    clients = len(offsets) - 1
    assert offsets[0] == 0 and offsets[-1] == len(indices), "/partition/offsets do not span the indices"
    assert np.array_equal(np.diff(offsets), group["size"][:]), "/partition/size is not what the offsets say"
    assert len(np.unique(indices)) == len(indices), "clients share samples"
    histogram = group["histogram"][:]
    assert histogram.shape[0] == clients
    assert np.array_equal(histogram.sum(axis=1), np.diff(offsets)), "histogram rows do not sum to the clients' sizes"
    for measure in ("jensen_shannon", "hellinger", "earth_mover"):
        values = group[measure][:]
        assert values.shape == (clients,) and values.dtype == np.float64
        assert np.all((values >= 0) & (values <= 1 + 1e-12)), f"{measure} outside 0 to 1"
        mean = values[np.diff(offsets) > 0].mean()  # others have no distribution
        assert np.isclose(group.attrs[measure + "_mean"], mean), f"{measure}_mean is wrong"
        assert group.attrs[measure + "_max"] == values.max(), f"{measure}_max is wrong"
    assert group.attrs["checksum"] == checksum(offsets.tobytes() + indices.tobytes()), "/partition's checksum is wrong"
    return clients


def check_model(group):
    assert len(group) > 0, "/model is empty"
    for name in group:
        assert group[name].dtype == np.float32, f"/model/{name} is {group[name].dtype}, not float32"
        assert np.all(np.isfinite(group[name][()])), f"/model/{name} is not finite"
    data = b"".join(group[name][()].tobytes() for name in group)
    assert group.attrs["checksum"] == checksum(data), "/model's checksum is wrong"
    return group.attrs["checksum"]


def main(path):
    with h5py.File(path, "r") as file:
        groups = set(TABLES) | {"partition", "model", "job", "provenance"}
        assert set(file) == groups, f"groups are {sorted(file)}, not {sorted(groups)}"
        tables = {name: check_table(file, name, columns) for name, columns in TABLES.items()}
        rounds, clients = tables["rounds"], tables["clients"]

        assert np.array_equal(rounds["round"], np.arange(1, len(rounds["round"]) + 1)), "rounds are not 1, 2, ..."
        accuracy = rounds["test_accuracy"]
        assert np.all(np.isnan(accuracy) | ((accuracy >= 0) & (accuracy <= 1))), "test_accuracy is no fraction"
        assert np.array_equal(np.isnan(accuracy), np.isnan(rounds["test_loss"])), "loss or accuracy lacks its partner"
        for number, cohort, failed in zip(rounds["round"], rounds["cohort"], rounds["failed"]):
            rows = clients["round"] == number
            assert rows.sum() == cohort, f"round {number} has {rows.sum()} client rows, not {cohort}"
            assert len(set(clients["client"][rows])) == cohort, f"round {number} has a client twice"
            assert failed == sum(rounds[name][number - 1] for name in ("diverged", "stragglers", "lost", "set_aside")), \
                f"round {number}: {failed} failed is not the sum of what became of them"
            assert (clients["status"][rows] != 0).sum() <= failed, f"round {number} failed more clients than it says"
        assert file["clients/status"].attrs["codes"].startswith("0 trained"), "/clients/status has no codes"

        count = check_partition(file["partition"])
        assert np.all((clients["client"] >= 0) & (clients["client"] < count)), "a client that the partition lacks"
        sizes = file["partition/size"][:]
        assert np.array_equal(clients["samples"], sizes[clients["client"]]), "/clients/samples is not the partition's"
        ranks = tables["ranks"]["rank"]
        assert np.array_equal(ranks, np.arange(len(ranks))), "ranks are not 0, 1, ..."
        assert np.all(np.isin(clients["rank"], ranks)), "a client trained on a rank that is not there"

        hosts = max(len(ranks) - 1, 1)
        for number, seconds, idle in zip(rounds["round"], rounds["seconds"], rounds["idle_share"]):
            busy = clients["seconds"][clients["round"] == number].sum()
            assert 0 <= idle < 1 and np.isclose(idle, 1 - busy / (hosts * seconds)), f"idle_share of {number} is wrong"

        check_attributes(file["job"])
        check_attributes(file["provenance"])
        assert set(file["job"]) == {"text"} and isinstance(file["job/text"].asstr()[()], str)
        model = check_model(file["model"])

        try:
            import pandas
        except ImportError:
            pass
        else:
            frame = pandas.DataFrame({name: file["rounds"][name][:] for name in file["rounds"]})
            assert len(frame) == len(rounds["round"])
    print(f"{path}: {len(rounds['round'])} rounds, {len(clients['round'])} client rows, model {model}: as promised")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: read_results.py FILE")
    main(sys.argv[1])
