"""Lists, creates, waits for and deletes a VM, with a client that openapi-python-client made from docs/openapi.json.

Arguments: the folder that holds the package `volant`, the address of the API, a plugin, and a name for the VM. VOLANT_TOKEN is the token.
It holds no knowledge of HTTP: paths, fields and types are the generated client's.
"""

import os
import sys

folder, address, plugin, name = sys.argv[1:]
sys.path.insert(0, folder)

from volant.api.vms import create_vm, delete_vm, get_vm, list_vms  # noqa: E402
from volant.client import AuthenticatedClient  # noqa: E402
from volant.models import CreateVm, Problem, Vm, VmStatus, WaitGoal  # noqa: E402

# An emulated guest takes minutes to boot where a real CPU takes a second.
WAIT = "300s"
ANSWER_LIMIT_S = 310

client = AuthenticatedClient(
    base_url=address,
    token=os.environ["VOLANT_TOKEN"],
    prefix="",
    auth_header_name="X-Volant-API-Key",
    timeout=ANSWER_LIMIT_S,
    raise_on_unexpected_status=True,
)


def check(fact, what):
    if not fact:
        sys.exit(f"It is not as it should be: {what}")


def names():
    listed = list_vms.sync(client=client)
    check(isinstance(listed, list), listed)
    return [vm.name for vm in listed]


def create():
    return create_vm.sync(client=client, body=CreateVm(name=name, plugin=plugin))


check(name not in names(), "the VM is there before it is created")

created = create()
check(isinstance(created, Vm) and created.name == name, created)

again = create()
check(isinstance(again, Problem) and again.code == "vm-exists", again)

ready = get_vm.sync(name, client=client, wait=WaitGoal.READY, timeout=WAIT)
check(isinstance(ready, Vm) and ready.status == VmStatus.RUNNING, ready)
check(name in names(), "the VM is not listed")

deleted = delete_vm.sync_detailed(name, client=client)
check(deleted.status_code == 204, deleted)
gone = get_vm.sync(name, client=client)
check(isinstance(gone, Problem) and gone.code == "vm-not-found", gone)
check(name not in names(), "the VM is listed after its end")

print(f"listed, created, waited for and deleted `{name}`")
