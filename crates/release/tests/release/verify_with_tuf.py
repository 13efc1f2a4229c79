"""Verifies a TUF repository in a folder with python-tuf, and prints each target that it accepts.

Usage: verify_with_tuf.py FOLDER TARGET...
FOLDER holds metadata/ and targets/. Trust starts from metadata/1.root.json. Prints one line of `TARGET LENGTH`.
"""

import pathlib
import sys
import tempfile
import urllib.parse

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater


class FolderFetcher(FetcherInterface):
    def _fetch(self, url):
        path = pathlib.Path(urllib.parse.unquote(urllib.parse.urlparse(url).path))
        if not path.is_file():
            raise DownloadHTTPError(f"{path.name} not found", 404)
        yield path.read_bytes()


def main(folder, names):
    folder = pathlib.Path(folder)
    with tempfile.TemporaryDirectory() as local:
        updater = Updater(
            metadata_dir=local,
            metadata_base_url=(folder / "metadata").as_uri(),
            target_dir=local,
            target_base_url=(folder / "targets").as_uri(),
            fetcher=FolderFetcher(),
            bootstrap=(folder / "metadata" / "1.root.json").read_bytes(),
        )
        updater.refresh()
        for name in names:
            info = updater.get_targetinfo(name)
            if info is None:
                print(name, "not listed")
                continue
            path = updater.download_target(info)
            print(name, pathlib.Path(path).stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
