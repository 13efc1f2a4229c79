"""Writes the repository in this folder with python-tuf 7.0.1 and cryptography: `python3 write.py FOLDER`."""

import datetime
import pathlib
import sys

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

EXPIRES = datetime.datetime(2100, 1, 1, tzinfo=datetime.timezone.utc)
folder = pathlib.Path(sys.argv[1])
signers = {role: CryptoSigner.generate_ecdsa() for role in ["root", "targets", "snapshot", "timestamp", "trainer"]}


def write(payload, role, name):
    file = Metadata(payload)
    file.sign(signers[role])
    data = file.to_bytes(JSONSerializer(compact=False))
    (folder / name).write_bytes(data)
    return data


root = Root(expires=EXPIRES, consistent_snapshot=True)
for role in ["root", "targets", "snapshot", "timestamp"]:
    root.add_key(signers[role].public_key, role)
write(root, "root", "1.root.json")
adapters = Targets(expires=EXPIRES)
name = "adapter.farm.r2.release.json"
adapters.targets[name] = TargetFile.from_data(name, b"the trainer's manifest", ["sha256"])
adapters_bytes = write(adapters, "trainer", "1.adapter-farm.json")
key = signers["trainer"].public_key
role = DelegatedRole("adapter-farm", [key.keyid], 1, True, paths=["adapter.farm.*"])
targets = Targets(expires=EXPIRES, delegations=Delegations({key.keyid: key}, {"adapter-farm": role}))
name = "farm.r1.release.json"
targets.targets[name] = TargetFile.from_data(name, b"the operator's manifest", ["sha256"])
targets_bytes = write(targets, "targets", "1.targets.json")
snapshot = Snapshot(expires=EXPIRES, meta={
    "targets.json": MetaFile.from_data(1, targets_bytes, ["sha256"]),
    "adapter-farm.json": MetaFile.from_data(1, adapters_bytes, ["sha256"]),
})
snapshot_bytes = write(snapshot, "snapshot", "1.snapshot.json")
write(Timestamp(expires=EXPIRES, snapshot_meta=MetaFile.from_data(1, snapshot_bytes, ["sha256"])), "timestamp", "timestamp.json")
