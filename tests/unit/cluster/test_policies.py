"""infra/policies: AWS refuses a policy with an action that none of the resources of its statement can have."""

import json
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FILES = sorted((REPOSITORY / "infra/policies").glob("*.json"))
OF_BUCKETS = {"s3:ListBucket", "s3:ListBucketMultipartUploads"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_action_has_a_resource_of_its_kind(file: Path) -> None:
    for statement in json.loads(file.read_text())["Statement"]:
        kinds = {"/" in resource for resource in statement["Resource"]}  # True: objects
        for action in statement["Action"]:
            assert (action not in OF_BUCKETS) in kinds, f"{statement['Sid']}: {action}"
