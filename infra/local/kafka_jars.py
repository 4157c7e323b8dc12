"""Apache Kafka's jars: fetched once by exact version, and checked against the sha256 digests in `kafka_jars.sha256`.

A fetched set is verified and then renamed to its final name, so an existing directory was complete.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from importlib import resources
from pathlib import Path

from infra.errors import CannotContinue, RetryLater
from infra.process.file_lock import locked

VERSION = "4.3.1"
#: slf4j-simple writes the broker's log to standard error; without a binding it would log nothing.
ENDPOINT = f"org.apache.kafka:kafka_2.13:{VERSION}+org.slf4j:slf4j-simple:1.7.36"
CHECKSUMS = resources.files(__package__) / "kafka_jars.sha256"
ATTEMPTS = 3
LOCK_TIMEOUT_S = 300.0


def checksums() -> dict[str, str]:
    """The sha256 digests by file name."""
    lines = (line.split() for line in CHECKSUMS.read_text().splitlines())
    return {name: digest for digest, name in lines}


def ensure_jars(cache_dir: Path) -> Path:
    """Return the directory of verified jars below `cache_dir`; fetch it if it is missing (44 MB, about 20 s).

    Several processes may call it at once. Raises CannotContinue if a jar differs, or cannot be fetched or written.
    """
    home = cache_dir / "kafka"
    target = home / VERSION
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / "lock", LOCK_TIMEOUT_S):
            if not target.is_dir():
                _fetch(home, target)
    except RetryLater as error:
        raise CannotContinue(f"Kafka's jars: {error}") from None
    except OSError as error:
        raise CannotContinue(f"cannot write Kafka's jars to {home}: {error.strerror or error}") from error
    verify(target)
    return target


def verify(directory: Path) -> None:
    """Raises CannotContinue if the directory holds other jars than the listed ones."""
    expected = checksums()
    present = {path.name: path for path in directory.glob("*.jar")}
    if different := sorted(expected.keys() ^ present.keys()):
        raise CannotContinue(f"{directory} does not hold the jars that {CHECKSUMS.name} lists ({different[0]}): remove it to fetch them again")
    for name, path in sorted(present.items()):
        with path.open("rb") as jar:
            digest = hashlib.file_digest(jar, "sha256").hexdigest()
        if digest != expected[name]:
            raise CannotContinue(f"{path} has sha256 {digest[:12]}..., expected {expected[name][:12]}...: remove {directory} to fetch it again")


def _fetch(home: Path, target: Path) -> None:
    """Resolve, collect, verify, rename. First removes the files of killed fetches. The caller holds the lock."""
    for unfinished in home.glob("fetch-*"):
        shutil.rmtree(unfinished)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=home) as temporary:
        complete = Path(temporary) / "complete"
        complete.mkdir()
        for jar in _resolve(Path(temporary)):
            shutil.copyfile(jar, complete / jar.name)
        verify(complete)
        complete.rename(target)


def _resolve(temporary: Path) -> list[Path]:
    """Download everything below `temporary` with jgo. The user's own Maven directories are neither read nor written."""
    from jgo.env import EnvironmentBuilder, LinkStrategy
    from jgo.maven import MavenContext
    from requests import RequestException

    for attempt in range(1, ATTEMPTS + 1):
        directory = temporary / f"attempt-{attempt}"
        context = MavenContext(repo_cache=directory / "repository", local_repos=[], timeout=60)
        builder = EnvironmentBuilder(context=context, cache_dir=directory / "environments", link_strategy=LinkStrategy.HARD)
        try:
            environment = builder.from_endpoint(ENDPOINT)
        except (RequestException, RuntimeError) as error:
            if attempt == ATTEMPTS:
                reason = type(error).__name__
                raise CannotContinue(f"cannot fetch Kafka's jars ({reason}): the first start needs the network; later ones do not") from error
            time.sleep(2 * attempt)
        else:
            return sorted(Path(environment.path).rglob("*.jar"))
    raise AssertionError("unreachable")
