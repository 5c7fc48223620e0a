"""A seccomp filter, as the bytes that bubblewrap reads: which system calls code in a sandbox may not make.

A list of what is refused, since Python and its packages use hundreds of others: memory that belongs to no process or
file (it could not be limited without a cgroup), reading other processes, new namespaces and mounts, and parts of the
kernel with a history of faults that no model's code needs. They fail with EPERM, as for want of rights; clone3, whose
arguments a filter cannot read, with ENOSYS, upon which libraries call clone. Sockets that a network namespace does not
isolate fail, too: a virtual machine's line to its host (AF_VSOCK) is one.

Only x86-64 and 64-bit ARM are known. Elsewhere there is no filter.
"""

from __future__ import annotations

import errno
import os
import struct

# Name → number on x86-64 and on 64-bit ARM; None: not there.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    **{"memfd_create": (319, 279), "memfd_secret": (447, 447)},
    **{"shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180)},
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    **{"kcmp": (312, 272), "pidfd_getfd": (438, 438), "process_madvise": (440, 440)},
    **{"unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39)},
    **{"pivot_root": (155, 41), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430)},
    **{"fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442)},
    **{"name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265)},
    **{"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)},
    **{"bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282)},
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)},
    **{"init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106)},
    **{"kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225)},
    **{"acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "personality": (135, 92)},
    **{"iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None)},
}
_CLONE, _CLONE3, _SOCKET = (56, 220), 435, (41, 198)
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: those that a network namespace isolates
_NAMESPACES = 0x7E02_0000  # the flags of clone that make one
_X32 = 0x4000_0000  # x86-64's second set of numbers
_MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}  # column above, AUDIT_ARCH

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data, little-endian
_ALLOW, _FAIL = 0x7FFF_0000, 0x0005_0000


def filter_program(machine: str | None = None) -> bytes | None:
    """The program (an array of struct sock_filter) for `machine`, this one by default; None where there is none."""
    machine = machine or os.uname().machine
    if machine not in _MACHINES:
        return None
    column, arch = _MACHINES[machine]
    no_such, refused = _FAIL | errno.ENOSYS, _FAIL | errno.EPERM
    program = [(_LOAD, 0, 0, _ARCH_AT), (_IF_EQUAL, 1, 0, arch), (_RETURN, 0, 0, no_such)]
    program += [(_LOAD, 0, 0, _NUMBER_AT)]
    if machine == "x86_64":
        program += [(_IF_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, no_such)]
    program += [(_IF_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, no_such)]
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            program += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, refused)]
    no_family = _FAIL | errno.EAFNOSUPPORT
    program += [(_IF_EQUAL, 0, len(_FAMILIES) + 3, _SOCKET[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT_AT)]
    program += [(_IF_EQUAL, len(_FAMILIES) - i, 0, family) for i, family in enumerate(_FAMILIES)]
    program += [(_RETURN, 0, 0, no_family), (_RETURN, 0, 0, _ALLOW)]
    program += [(_IF_EQUAL, 0, 3, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT_AT)]
    program += [(_IF_ANY_BIT, 0, 1, _NAMESPACES), (_RETURN, 0, 0, refused), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
