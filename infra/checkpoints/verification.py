"""Checkpoints on disk: allowed files, digest, and whether one can replace another in an engine.

A checkpoint is a folder as `save_pretrained` writes it: config, tokenizer, weights as safetensors. Only kinds of files without code are
allowed, so that nothing read from a checkpoint can run (docs/rules.md, 8). `infra.checkpoints.contents` checks JSON files and chat templates.
Reads files; loads no weights and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from infra.checkpoints.chat_templates import why_refused
from infra.checkpoints.contents import why_json_refused
from infra.errors import RetouchError

#: The model card may quote the digest, so the digest leaves it out.
MODEL_CARD = "README.md"
#: All others are refused: pickles (.bin, .pt, .pth, .ckpt, .pkl), code (.py, .so), archives.
ALLOWED_SUFFIXES = (".safetensors", ".json", ".txt", ".jinja", ".model", ".md")
ALLOWED_NAMES = ("LICENSE", "NOTICE")
REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json")

#: Keys that do not change what the model computes.
_CONFIG_IGNORED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
_GENERATION_IGNORED = ("_from_model_config", "transformers_version")
#: State of the last call, which the tokenizers library saves too.
_TOKENIZER_IGNORED = ("padding", "truncation")
#: Limit of the safetensors library; a header is read into memory.
_MAX_HEADER_BYTES = 100_000_000
_TOKENIZER_CONFIG_IGNORED = ("name_or_path", "transformers_version", "tokenizer_class", "backend", "is_local", "padding_side", "truncation_side")


#: Length of a BadCheckpoint's text, which quotes the checkpoint and goes to logs, tags, terminals and a page.
_MAX_CHARACTERS = 1_000


class BadCheckpoint(RetouchError):
    """A checkpoint that must not be loaded. The text names the file and the error, in one line of printable characters."""

    def __init__(self, text: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_CHARACTERS]))


class CheckpointSums(NamedTuple):
    """A checkpoint's digest, and the sha256 of each file by its relative name, the model card included."""

    digest: str
    files: Mapping[str, str]


def checkpoint_sums(checkpoint: Path) -> CheckpointSums:
    """The digest is the sha256 hex over all files but the model card: each relative name, length and content, in order of names.

    Raises BadCheckpoint for a missing folder or a symbolic link: a link's target is not part of the checkpoint.
    """
    digest, files = hashlib.sha256(), {}
    for name, path in checkpoint_files(checkpoint):
        file_sum = hashlib.sha256()
        hashes = [file_sum] if name == MODEL_CARD else [file_sum, digest]
        if name != MODEL_CARD:
            encoded = name.encode()
            digest.update(struct.pack(">Q", len(encoded)) + encoded + struct.pack(">Q", path.stat().st_size))
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                for each in hashes:
                    each.update(block)
        files[name] = file_sum.hexdigest()
    return CheckpointSums(digest.hexdigest(), files)


def checkpoint_digest(checkpoint: Path) -> str:
    """See `checkpoint_sums`."""
    return checkpoint_sums(checkpoint).digest


def inspect_checkpoint(checkpoint: Path) -> CheckpointSums:
    """Check everything that needs no loaded weights.

    Raises BadCheckpoint: a file of another kind, a link, an unprintable name, a config that names code or other folders, an unsafe chat
    template, a missing file, a truncated file, an index that points elsewhere.
    """
    names = {name for name, path in checkpoint_files(checkpoint) if _checked_kind(name, path)}
    for name in REQUIRED:
        if name not in names:
            raise BadCheckpoint(f"{checkpoint / name}: missing")
    if not any(name.endswith(".safetensors") for name in names):
        raise BadCheckpoint(f"{checkpoint}: no .safetensors file")
    for name in sorted(names):
        _check_content(checkpoint, name, names)
    return checkpoint_sums(checkpoint)


def verify_checkpoint(checkpoint: Path, digest: str | None = None, files: Mapping[str, str] | None = None) -> str:
    """Inspect a checkpoint and compare its digest and file sums with the registered ones. Returns the digest.

    Raises BadCheckpoint as `inspect_checkpoint` does, and for a file or a digest that differs.
    """
    actual = inspect_checkpoint(checkpoint)
    expected = files or actual.files
    for name in sorted(actual.files.keys() | expected.keys()):
        if actual.files.get(name) != expected.get(name):
            raise BadCheckpoint(f"{checkpoint / name}: sha256 is {actual.files.get(name, 'none')}, the registry says {expected.get(name, 'none')}")
    if digest is not None and actual.digest != digest:
        raise BadCheckpoint(f"{checkpoint}: digest is {actual.digest}, the registry says {digest}")
    return actual.digest


class Traits(NamedTuple):
    """The parts of a checkpoint that must equal those of the one it replaces."""

    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    generation: Mapping[str, Any] | None  # None without a generation_config.json
    template: str | None
    tensors: Mapping[str, Any]  # shapes by name


def traits(checkpoint: Path) -> Traits:
    """Read a checkpoint's traits. Raises BadCheckpoint if a file is missing or not JSON."""
    generation = _read(checkpoint, "generation_config.json") if (checkpoint / "generation_config.json").is_file() else None
    config, tokenizer, tokenizer_config = (_read(checkpoint, name) for name in REQUIRED)
    template = (checkpoint / "chat_template.jinja").read_text(encoding="utf-8") if (checkpoint / "chat_template.jinja").is_file() else None
    return Traits(config, tokenizer, tokenizer_config, generation, template, _tensors(checkpoint))


def differences(serving: Path | Traits, candidate: Path, *, adapter: bool = False) -> tuple[str, ...]:
    """The files and keys that keep `candidate` from loading into the engine of `serving`; empty if it can load.

    Architecture, vocabulary, tokenizer, chat template, generation config, and the tensors' names and shapes must be equal; precision on disk may differ.
    An `adapter` over the serving weights has its own tensors. Without a generation_config.json (PEFT saves none) it uses its base's.
    """
    a, b = serving if isinstance(serving, Traits) else traits(serving), traits(candidate)
    differing = [f"config.json: {key} differs" for key in _different_keys(a.config, b.config, _CONFIG_IGNORED)]
    differing += [f"tokenizer.json: {key} differs" for key in _different_keys(a.tokenizer, b.tokenizer, _TOKENIZER_IGNORED)]
    differing += [f"tokenizer_config.json: {key} differs" for key in _different_keys(a.tokenizer_config, b.tokenizer_config, _TOKENIZER_CONFIG_IGNORED)]
    # transformers takes missing parameters of a call from it; an engine with replaced weights would not read the new file
    if not adapter or b.generation is not None:
        differing += [f"generation_config.json: {key} differs" for key in _different_keys(a.generation or {}, b.generation or {}, _GENERATION_IGNORED)]
    if a.template != b.template:
        differing.append("chat_template.jinja differs")
    return (*differing, *(() if adapter else _different_tensors(a.tensors, b.tensors)))


def checkpoint_files(checkpoint: Path) -> Iterator[tuple[str, Path]]:
    """Each file's relative name and path, in order of names.

    Raises BadCheckpoint for a missing folder, a link, an entry that is neither file nor folder, and an unprintable name.
    """
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        raise BadCheckpoint(f"{checkpoint}: not a folder")
    files = []
    for path in checkpoint.rglob("*"):
        if path.is_symlink():
            raise BadCheckpoint(f"{path}: a symbolic link")
        if not path.name.isprintable():
            raise BadCheckpoint(f"{path.parent / ascii(path.name)}: a name has printable letters only")
        if path.is_file():
            files.append((path.relative_to(checkpoint).as_posix(), path))
        elif not path.is_dir():
            raise BadCheckpoint(f"{path}: neither a file nor a folder")
    yield from sorted(files)


def _checked_kind(name: str, path: Path) -> bool:
    if path.suffix not in ALLOWED_SUFFIXES and name not in ALLOWED_NAMES:
        raise BadCheckpoint(f"{path}: a file of this kind is not allowed; a checkpoint holds {', '.join(ALLOWED_SUFFIXES)} only")
    return True


def _check_content(checkpoint: Path, name: str, names: set[str]) -> None:
    if name.endswith(".safetensors"):
        _check_safetensors(checkpoint / name)
    elif name.endswith(".jinja"):
        _refuse(checkpoint / name, why_refused(_template(checkpoint / name)))
    elif name.endswith(".safetensors.index.json"):
        shards = _read(checkpoint, name).get("weight_map", {})
        if not isinstance(shards, dict):
            raise BadCheckpoint(f"{checkpoint / name}: its weight_map is no JSON object")
        for shard in shards.values():
            if not isinstance(shard, str) or shard not in names:
                raise BadCheckpoint(f"{checkpoint / name}: points to {shard!r}, which is not in the checkpoint")
    elif name == "tokenizer.json":
        _read(checkpoint, name)
    elif name.endswith(".json"):
        _refuse(checkpoint / name, why_json_refused(Path(name).name, _json(checkpoint / name)))


def _refuse(path: Path, reason: str | None) -> None:
    if reason:
        raise BadCheckpoint(f"{path}: {reason}")


def _template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadCheckpoint(f"{path}: not UTF-8") from None


def _check_safetensors(path: Path) -> None:
    """Checks that the header's length and the tensors' offsets add up to the file's size."""
    header, header_end = _header(path)
    try:
        expected = header_end + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except (TypeError, KeyError, IndexError):
        raise BadCheckpoint(f"{path}: not a safetensors file") from None
    if path.stat().st_size != expected:
        raise BadCheckpoint(f"{path}: {path.stat().st_size} bytes, its header says {expected}")


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file by name, and the end of its header: eight bytes of length, then JSON (format of safetensors)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > size - 8:
            raise BadCheckpoint(f"{path}: truncated within the header ({size} bytes)")
        if length > _MAX_HEADER_BYTES:
            raise BadCheckpoint(f"{path}: a header of {length} bytes, {_MAX_HEADER_BYTES} at most")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        raise BadCheckpoint(f"{path}: not a safetensors file")
    header.pop("__metadata__", None)
    return header, 8 + length


def _tensors(checkpoint: Path) -> dict[str, Any]:
    return {
        name: tensor.get("shape") for name, path in checkpoint_files(checkpoint) if path.suffix == ".safetensors" for name, tensor in _header(path)[0].items()
    }


def stored_dtypes(checkpoint: Path) -> frozenset[str]:
    """The dtypes of a checkpoint's tensors as safetensors writes them, such as `BF16`. Raises BadCheckpoint for a file that is no safetensors."""
    weights = (path for _, path in checkpoint_files(checkpoint) if path.suffix == ".safetensors")
    return frozenset(str(tensor.get("dtype")) for path in weights for tensor in _header(path)[0].values())


def _different_tensors(serving: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    different = [name for name in sorted(serving.keys() | candidate.keys()) if serving.get(name) != candidate.get(name)]
    return [f"tensors differ in name or shape: {', '.join(different[:3])}"] if different else []


def _read(checkpoint: Path, name: str) -> dict[str, Any]:
    content = _json(checkpoint / name)
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{checkpoint / name}: not a JSON object")
    return content


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadCheckpoint(f"{path}: missing") from None
    except (ValueError, RecursionError):  # truncated, no JSON, or nested too deeply
        raise BadCheckpoint(f"{path}: not JSON") from None


def _different_keys(a: Mapping[str, Any], b: Mapping[str, Any], ignored: tuple[str, ...]) -> list[str]:
    return [key for key in sorted(a.keys() | b.keys()) if key not in ignored and a.get(key) != b.get(key)]
