"""Credentials that a machine of a cloud is given, where its metadata service is busy."""

import json
from http.server import BaseHTTPRequestHandler

import pytest

from distseg import storage
from tests.conftest import use_environment
from tests.unit.storage.test_s3_answers import URI, Answer, Server

KEYS = {
    "Code": "Success",
    "AccessKeyId": "AKIDOFROLE",
    "SecretAccessKey": "s",
    "Token": "t",
    "Expiration": "2999-01-01T00:00:00Z",
}


def test_a_busy_metadata_service_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = {"/latest/meta-data/iam/security-credentials/": 2}  # how often it refuses
    signed = []

    def script(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        if request.path.startswith("/latest/"):
            busy[request.path] = busy.get(request.path, 0) - 1
            if busy[request.path] >= 0:
                return Answer(503)
            is_list = request.path.endswith("security-credentials/")
            return Answer(
                200, b"role" if is_list else json.dumps(KEYS).encode() if "meta-data" in request.path else b"t"
            )
        signed.append(request.headers["Authorization"])
        return Answer(200, b"body", {"ETag": '"e"'})

    server = Server()
    server.script = script
    try:
        places = {"AWS_ENDPOINT_URL": server.address, "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.address}
        use_environment({**places, "AWS_EC2_METADATA_DISABLED": "false"}, monkeypatch)
        assert storage.read_bytes(URI, deadline_s=1) == b"body"
    finally:
        server.close()
    assert signed and all("AKIDOFROLE" in each for each in signed)
