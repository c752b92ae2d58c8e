"""A stand-in for the Hugging Face Hub: a server on this machine that speaks what `huggingface_hub` asks.

Repositories are created, committed to (regular files and LFS) and read as on the Hub; private ones need a token, and
metadata of a card is checked. It keeps everything in memory and lets a test look at it, or spoil it.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import yaml
from huggingface_hub import constants

OWNER, TOKEN = "someone", "hf_of_the_owner"
#: suffixes that the Hub's `.gitattributes` gives to LFS
_LARGE = (".safetensors", ".npz", ".bin")


@dataclass
class Repository:
    """One repository: its commits, oldest first, each with all files by path."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        """Adds a commit that holds these files and no others; its hash."""
        said = [
            str(len(self.commits)),
            *(f"{path} {hashlib.sha1(content).hexdigest()}" for path, content in files.items()),
        ]
        oid = hashlib.sha1("\n".join(said).encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    @property
    def files(self) -> dict[str, bytes]:
        """Those of the last commit."""
        return self.commits[-1][1]

    def spoil(self, path: str, content: bytes) -> str:
        """Commits another content of a file, past all that would check it."""
        return self.commit({**self.files, path: content})

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit by hash, or the last one by the name of the branch."""
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class StandIn(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: by `owner/name`.
        requests: method and path of each, in order.
        silent: nothing is answered while it is set.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.uploaded: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.silent = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def holds(self, name: str, folder: Path, private: bool = False) -> Repository:
        """Makes a repository of the files of a folder."""
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        self.repositories[name] = Repository(private)
        self.repositories[name].commit(files)
        return self.repositories[name]


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", told: str = "") -> None:
        self.status, self.code, self.told = status, code, told


class _Handler(http.server.BaseHTTPRequestHandler):
    server: StandIn  # pyright: ignore[reportIncompatibleVariableOverride]  # no other server makes it

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body))} | {name.replace("_", "-"): text for name, text in headers.items()}
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        if self.server.silent.is_set():
            time.sleep(3)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.command in ("GET", "HEAD"):
                self._read(path.strip("/").split("/"))
            else:
                self._write(path.strip("/").split("/"), body)
        except _Refused as refused:
            told = json.dumps({"error": refused.told}).encode()
            self._answer(refused.status, told, X_Error_Code=refused.code, X_Error_Message=refused.told)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    # --- who asks -----------------------------------------------------------------------------------------------------

    @property
    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> Repository:
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self._is_owner):
            # The Hub does not tell strangers which private repositories there are.
            raise _Refused(404 if self._is_owner else 401, "RepoNotFound", "Repository not found")
        return found

    def _at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self._repository(name).at(revision)
        if found is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self, parts: list[str]) -> None:
        match parts:
            case ["api", "models", owner, name]:
                self._json(self._info(f"{owner}/{name}", "main"))
            case ["api", "models", owner, name, "revision", revision]:
                self._json(self._info(f"{owner}/{name}", revision))
            case ["api", "models", owner, name, "tree", revision]:
                _, files = self._at(f"{owner}/{name}", revision)
                self._json([_entry(path, content) for path, content in files.items()])
            case [owner, name, "resolve", revision, *rest]:
                self._resolve(f"{owner}/{name}", revision, "/".join(rest))
            case ["lfs", oid]:
                self._answer(200, self.server.uploaded[oid])
            case _:
                raise _Refused(404)

    def _info(self, name: str, revision: str) -> dict[str, Any]:
        oid, files = self._at(name, revision)
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "sha": oid, "private": self._repository(name).private, "siblings": siblings}

    def _resolve(self, name: str, revision: str, path: str) -> None:
        oid, files = self._at(name, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        content = files[path]
        headers: dict[str, str] = {"X_Repo_Commit": oid}
        if not path.endswith(_LARGE):
            return self._answer(200, content, **headers, ETag=f'"{_blob(content)}"')
        digest = hashlib.sha256(content).hexdigest()
        self.server.uploaded[digest] = content
        headers |= {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(len(content))}
        # The Hub keeps large files on another host.
        return self._answer(302, b"", Location=f"http://localhost:{self.server.server_port}/lfs/{digest}", **headers)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _write(self, parts: list[str], body: bytes) -> None:
        if parts[0] != "lfs" and not self._is_owner:
            raise _Refused(401, told="Invalid username or password.")
        match parts:
            case ["lfs", oid]:
                assert hashlib.sha256(body).hexdigest() == oid
                self.server.uploaded[oid] = body
                self._answer(200)
            case ["api", "validate-yaml"]:
                self._validate(json.loads(body)["content"])
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "models", owner, name, "preupload", _]:
                files = self._repository(f"{owner}/{name}").files
                self._json({"files": [_mode(file, files) for file in json.loads(body)["files"]]})
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self._repository(f"{owner}/{name.removesuffix('.git')}")
                self._json({"transfer": "basic", "objects": [self._upload(one) for one in json.loads(body)["objects"]]})
            case ["api", "models", owner, name, "commit", _]:
                self._commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
            case _:
                raise _Refused(404)

    def _create(self, said: dict[str, Any]) -> None:
        owner = said.get("organization") or OWNER
        name = f"{owner}/{said['name']}"
        if owner != OWNER:
            raise _Refused(403, told=f"You don't have the rights to create a model under the namespace {owner!r}")
        if name in self.server.repositories:
            return self._json(
                {"error": "You already created this model repo", "url": f"{self.server.address}/{name}"}, 409
            )
        made = self.server.repositories[name] = Repository(
            said.get("visibility") == "private" or bool(said.get("private"))
        )
        made.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self._json({"url": f"{self.server.address}/{name}", "name": name})

    def _upload(self, one: dict[str, Any]) -> dict[str, Any]:
        known = one["oid"] in self.server.uploaded
        return one if known else one | {"actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self._repository(name)
        header, files = lines[0]["value"], dict(repository.files)
        if header.get("parentCommit") not in (None, repository.commits[-1][0]):
            raise _Refused(412, told="A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploaded[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        oid = repository.commit(files)
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/{name}/commit/{oid}"})

    def _validate(self, card: str) -> None:
        """As the Hub: the front matter must be YAML; `model-index` of its shape, the licence one of its list."""
        _, front, *_ = card.split("---\n", 2)
        errors = list(_faults(yaml.safe_load(front)))
        self._json({"errors": [{"message": told} for told in errors], "warnings": []}, 400 if errors else 200)


def _faults(said: dict[str, Any]) -> Iterator[str]:
    if "license" in said and said["license"] not in ("apache-2.0", "mit", "cc-by-nc-4.0", "other"):
        yield f'"license" must be one of [apache-2.0, mit, cc-by-nc-4.0, other], and is {said["license"]}'
    for model in said.get("model-index", ()):
        if not isinstance(model.get("name"), str):
            yield '"model-index[0].name" is required'
        for result in model["results"]:
            wanted = {"task": {"type"}, "dataset": {"type", "name"}}
            yield from (
                f'"{key}" lacks {names - result[key].keys()}'
                for key, names in wanted.items()
                if names - result[key].keys()
            )
            if not all({"type", "value"} <= metric.keys() for metric in result["metrics"]):
                yield "a metric lacks its type or value"


def _blob(content: bytes) -> str:
    """A file's hash in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
    if path.endswith(_LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _mode(file: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    large, content = file["path"].endswith(_LARGE), files.get(file["path"])
    found = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    if content is not None:
        found["oid"] = hashlib.sha256(content).hexdigest() if large else _blob(content)
    return found


@contextmanager
def stand_in(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[StandIn]:
    """The Hub of this process, as HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN would say before it starts."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        patch.delenv(name, raising=False)
        patch.delenv(name.lower(), raising=False)
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        patch.setattr(constants, "ENDPOINT", server.address)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        patch.setenv("HF_TOKEN", TOKEN)
        huggingface_hub.close_session()
        yield server
        server.shutdown()
        thread.join()
        huggingface_hub.close_session()
