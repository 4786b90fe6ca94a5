# SPDX-License-Identifier: MIT
"""The glance store on a real Glance behind a real Keystone."""

import os
import subprocess

import pytest

import glance_cluster
import harness
from glance_program import (
    BIG, DENIED, GONE, LIMIT, MIB, PROGRAM, SMALL, UNAVAILABLE, USAGE, Reader, TlsFront,
    environment, fails, listed, read, run, verify,
)  # fmt: skip

lacking = glance_cluster.missing() or glance_cluster.missing_keystone()
pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason="built without the glance store"),
    pytest.mark.skipif(bool(lacking), reason=str(lacking)),
    pytest.mark.xdist_group("glance-login"),
]


@pytest.fixture(scope="module")
def cloud():
    """A Glance with a Keystone."""
    with glance_cluster.Keystone() as keystone, glance_cluster.Glance(keystone=keystone) as glance:
        glance.big = glance.upload("big", BIG)
        yield glance


def env_file(folder, variables):
    path = folder / "glance.env"
    lines = []
    for name, value in variables.items():
        quoted = value.replace("'", "'\\''")
        lines.append(f"export {name}='{quoted}'\n")
    path.write_text("# who reads images\n" + "".join(lines))
    path.chmod(0o600)
    return path


def test_without_a_login_there_is_no_permission(cloud):
    fails(run("list", "--", cloud.uri), DENIED, "401", "OS_USERNAME")
    fails(read(cloud.uri, cloud.big, (0, 1)), DENIED, "401")


def test_a_password_is_enough(cloud):
    variables = cloud.keystone.environment()
    for uri in (cloud.uri, "glance+http:///", "glance:///"):
        assert listed(uri, **variables)["big"]["id"] == cloud.big
        assert read(uri, cloud.big, (0, len(BIG)), **variables).stdout == BIG


def test_an_application_credential_is_enough(cloud):
    id, secret = cloud.keystone.application_credential("one")
    variables = {"OS_AUTH_URL": cloud.keystone.url, "OS_APPLICATION_CREDENTIAL_SECRET": secret}
    by_id = {**variables, "OS_APPLICATION_CREDENTIAL_ID": id}
    by_name = {**variables, "OS_APPLICATION_CREDENTIAL_NAME": "one", "OS_USERNAME": "reader"}
    for each in (by_id, by_name, {**by_id, "OS_AUTH_TYPE": "v3applicationcredential"}):
        assert listed("glance:///", **each)["big"]["id"] == cloud.big


def test_a_token_is_enough(cloud):
    token = cloud.keystone.reader_token()
    assert "big" in listed(cloud.uri, OS_TOKEN=token)
    assert "big" in listed("glance:///", OS_TOKEN=token, OS_AUTH_URL=cloud.keystone.url)
    assert "big" in listed("glance:///", OS_TOKEN=token, OS_ENDPOINT=cloud.url)
    scoped = {"OS_TOKEN": token, "OS_AUTH_URL": cloud.keystone.url, "OS_PROJECT_NAME": "images"}
    assert "big" in listed("glance:///", **scoped)
    fails(run("list", "--", cloud.uri, OS_TOKEN="wrong"), DENIED, "401")


def test_a_wrong_password_is_no_permission_and_nothing_of_it_is_said(cloud):
    variables = {**cloud.keystone.environment(), "OS_PASSWORD": "a-wrong-password"}
    done = run("list", "--", cloud.uri, **variables)
    fails(done, DENIED, "cannot log in", "401 Unauthorized: The request you have made requires")
    assert b"a-wrong-password" not in done.stderr


def test_a_user_without_a_role_is_no_permission(cloud):
    cloud.keystone.create("user", name="stranger", domain_id="default", password="pw")
    variables = {**cloud.keystone.environment(), "OS_USERNAME": "stranger", "OS_PASSWORD": "pw"}
    fails(run("list", "--", cloud.uri, **variables), DENIED, "cannot log in")


def test_the_images_are_those_that_the_user_may_see(cloud):
    private = cloud.upload("private", SMALL, visibility="private")
    variables = cloud.keystone.environment()
    assert "private" not in listed(cloud.uri, **variables)
    fails(read(cloud.uri, private, (0, 1), **variables), GONE, "404")
    cloud.delete(private)


def test_images_of_others_are_there_as_the_api_gives_them(cloud):
    community = cloud.upload("community", SMALL, visibility="community")
    shared = cloud.upload("shared", SMALL, visibility="shared")
    cloud.ask("POST", f"/v2/images/{shared}/members", {"member": cloud.keystone.project})
    variables = cloud.keystone.environment()

    def names(query=""):
        return set(listed(cloud.uri + query, **variables)) & {"community", "shared"}

    assert names() == set()
    assert names("?visibility=all") == names("?visibility=community") == {"community"}
    assert names("?visibility=shared&member_status=pending") == {"shared"}
    for id in (community, shared):
        assert read(cloud.uri, id, (0, len(SMALL)), **variables).stdout == SMALL
    glance_cluster.request(
        "PUT", f"{cloud.url}/v2/images/{shared}/members/{cloud.keystone.project}",
        {"status": "accepted"}, cloud.keystone.reader_token())
    assert names() == {"shared"}
    cloud.delete(community)
    cloud.delete(shared)


def test_keystone_with_tls(cloud, folder):
    with TlsFront(folder, cloud.keystone.port) as front:
        variables = {**cloud.keystone.environment(), "OS_AUTH_URL": front.url + "/v3"}
        done = run("list", "--", "glance:///", **variables)
        fails(done, UNAVAILABLE, "cannot log in", "certificate")
        variables["OS_CACERT"] = str(front.certificate)
        assert "big" in listed("glance:///", **variables)
        # That of Glance in the catalog is without.
        fails(run("list", "--", "glance+https:///", **variables), USAGE, "no TLS")


def test_the_region_and_the_interface_choose_the_endpoint(cloud):
    variables = cloud.keystone.environment()
    assert listed("glance:///", OS_REGION_NAME="here", OS_INTERFACE="public", **variables)
    fails(run("list", "--", "glance:///", OS_REGION_NAME="there", **variables), USAGE, "there")
    fails(run("list", "--", "glance:///", OS_INTERFACE="admin", **variables), USAGE, "admin")


def test_a_file_of_variables_is_enough(cloud, folder, mounted):
    path = env_file(folder, cloud.keystone.environment())
    mount = mounted(f"glance+http:///?env={path}", env=environment())
    assert (mount / "big").read_bytes() == BIG


def test_a_token_that_ends_in_the_middle_of_a_copy_is_renewed(cloud):
    with Reader(cloud.uri, cloud.big, **cloud.keystone.environment()) as reader:
        reader.ask(0, MIB)
        assert reader.take(MIB) == BIG[:MIB]
        cloud.keystone.end_all_tokens()
        reader.ask(MIB, len(BIG) - MIB)
        assert reader.take(len(BIG) - MIB) == BIG[MIB:]
        assert reader.end() == (0, b"")


def test_a_token_that_ends_for_good_is_no_permission(cloud):
    token = cloud.keystone.reader_token()
    with Reader(cloud.uri, cloud.big, OS_TOKEN=token) as reader:
        reader.ask(0, 100)
        assert reader.take(100) == BIG[:100]
        cloud.keystone.end_all_tokens()
        reader.ask(100, 100)
        status, said = reader.end()
        assert status == DENIED and b"401" in said
        assert token.encode() not in said


def test_a_token_that_ends_is_not_seen_in_the_mount(cloud, mounted):
    mount = mounted(cloud.uri, env=environment(**cloud.keystone.environment()))
    with open(mount / "big", "rb", buffering=0) as file:
        assert file.read(MIB) == BIG[:MIB]
        cloud.keystone.end_all_tokens()
        assert os.pread(file.fileno(), 100, 8 * MIB) == BIG[8 * MIB : 8 * MIB + 100]
    assert (mount / "big").read_bytes() == BIG


def all_said(mount):
    """What others can see of a mount: its log, its files, its processes' arguments."""
    said = [mount.log()]
    said += [harness.command_of(pid) for pid in (mount.pid, *mount.children())]
    said += [(mount / ".imagefs" / name).read_text() for name in ("log", "stats")]
    for path in (mount.path, mount / "big"):
        said += [name + str(os.getxattr(path, name)) for name in os.listxattr(path)]
    return "\n".join(said)


def all_printed(*words, **variables):
    done = subprocess.run(
        [harness.IMAGEFS, words[0], "-o", "store_path=" + harness.STORE_PATH, *words[1:]],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(**variables), timeout=LIMIT, check=False)  # fmt: skip
    return done.stdout


def test_no_secret_is_to_be_seen_anywhere(cloud, mounted):
    variables = cloud.keystone.environment()
    mount = mounted(cloud.uri, arguments=["-d"], noisy=True, env=environment(**variables))
    with open(mount / "big", "rb", buffering=0) as file:
        assert file.read(100) == BIG[:100]
        assert len(mount.children()) > 0
        said = all_said(mount)
    said += all_printed("list", "--json", cloud.uri, **variables)
    said += all_printed("verify", cloud.uri, "big", **variables)
    mount.end()
    said += mount.log()
    assert "user.imagefs.os_hash_value" in said and "equal" in said
    assert cloud.keystone.password not in said
    # So begins each token of Keystone's.
    assert "gAAAA" not in said and cloud.keystone.reader_token().startswith("gAAAA")


def test_no_secret_is_to_be_seen_where_something_fails(cloud, mounted):
    token = cloud.keystone.reader_token()
    mount = mounted(cloud.uri, arguments=["-d"], noisy=True, env=environment(OS_TOKEN=token))
    with open(mount / "big", "rb", buffering=0) as file:
        assert file.read(100) == BIG[:100]
        cloud.keystone.end_all_tokens()
        with pytest.raises(PermissionError):
            os.pread(file.fileno(), 100, 8 * MIB)
        said = all_said(mount)
    mount.end()
    said += mount.log()
    id, secret = cloud.keystone.application_credential("two")
    wrong = secret[::-1]
    said += all_printed("list", cloud.uri, OS_AUTH_URL=cloud.keystone.url,
                        OS_APPLICATION_CREDENTIAL_ID=id, OS_APPLICATION_CREDENTIAL_SECRET=wrong)
    assert "401" in said and "cannot log in" in said
    assert token not in said and wrong not in said


def test_a_deactivated_image_is_not_listed_and_not_read(cloud):
    id = cloud.upload("deactivated", SMALL)
    variables = cloud.keystone.environment()
    cloud.ask("POST", f"/v2/images/{id}/actions/deactivate")
    assert id not in {image["id"] for image in listed(cloud.uri, **variables).values()}
    fails(read(cloud.uri, id, (0, 10), **variables), DENIED, "403")
    cloud.ask("POST", f"/v2/images/{id}/actions/reactivate")
    assert read(cloud.uri, id, (0, 10), **variables).stdout == SMALL[:10]
    cloud.delete(id)


def test_an_image_that_is_deactivated_while_open_is_no_permission(cloud, mounted):
    id = cloud.upload("deactivated-while-open", BIG)
    mount = mounted(cloud.uri, env=environment(**cloud.keystone.environment()))
    mount.expect("imagefs: .*403 Forbidden: .*deactivated")
    with open(mount / "deactivated-while-open", "rb", buffering=0) as file:
        assert file.read(100) == BIG[:100]
        cloud.ask("POST", f"/v2/images/{id}/actions/deactivate")
        with pytest.raises(PermissionError):
            os.pread(file.fileno(), 100, 8 * MIB)
    cloud.delete(id)


def test_images_behind_a_login_are_verified(cloud):
    status, rows = verify("glance:///", "big", **cloud.keystone.environment())
    assert status == 0 and "equal" in rows["big"]
