"""The users of a deployment on the lab's cluster, and their rights as ACLs."""

from __future__ import annotations

from kafka.admin import ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourceType

from infra.kafka.rights import PROCESSES, process_rights
from infra.settings import Settings
from lab.cluster.acls import acls_of, run_by, user_of, users
from lab.cluster.users import check_names


def test_every_user_has_a_name_that_the_cluster_takes() -> None:
    check_names(users())
    assert len(set(users())) == len(users())


def test_every_user_is_allowed_what_one_process_needs() -> None:
    assert {process for user in users() for process in run_by(user)} <= set(PROCESSES)
    assert run_by(user_of("base")) == ("workers base",)


def test_rights_become_allowing_acls_of_the_user_and_nothing_else() -> None:
    rights = process_rights(Settings(), "workers base")
    acls = acls_of("ada", rights)
    assert len(acls) == len(rights)
    assert {(acl.principal, acl.host, acl.permission_type) for acl in acls} == {("User:ada", "*", ACLPermissionType.ALLOW)}
    (transactional_id,) = [acl for acl in acls if acl.resource_pattern.resource_type is ResourceType.TRANSACTIONAL_ID]
    assert transactional_id.operation is ACLOperation.WRITE
    assert transactional_id.resource_pattern.pattern_type is ACLResourcePatternType.PREFIXED
