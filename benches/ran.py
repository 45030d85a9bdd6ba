"""ran.py OUT PROGRAM ARGUMENT...: runs a program and writes the symbols of its functions to OUT, in the order in which they first ran.

Every function of the program starts with a breakpoint, which is taken away when it is hit: a function costs one stop in
all, so the program runs at nearly its own speed. SIGTERM is passed on. Linux on x86-64; see ptrace(2)."""

import ctypes
import os
import pathlib
import signal
import struct
import subprocess
import sys

PTRACE_TRACEME, PTRACE_CONT, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_SETOPTIONS = 0, 7, 12, 13, 0x4200
O_TRACECLONE, O_EXITKILL = 0x8, 0x100000
WAIT_ALL_THREADS = 0x40000000  # __WALL
BREAKPOINT = b"\xcc"
# struct user_regs_struct: 27 words, rip is the 17th.
REGISTERS_BYTES, RIP_OFFSET = 27 * 8, 16 * 8

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def functions(program):
    """The symbols by their address; several may share one."""
    listing = subprocess.run(["nm", "--defined-only", program], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in listing.splitlines():
        address, kind, name = line.split(" ", 2)
        if kind in "tTwW":
            found.setdefault(int(address, 16), []).append(name)
    return found


def load_address(pid, program):
    maps = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    return next(int(line.split("-")[0], 16) for line in maps if line.endswith(os.path.realpath(program)))


class Tracee:
    def __init__(self, pid, program, names):
        self.base = load_address(pid, program)
        self.memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        self.registers = ctypes.create_string_buffer(REGISTERS_BYTES)
        self.ran = {}
        self.first_bytes = {}
        for address in names:
            self.first_bytes[address] = os.pread(self.memory, 1, self.base + address)
            os.pwrite(self.memory, BREAKPOINT, self.base + address)

    def stepped_on(self, thread):
        """True where the thread stood on one of our breakpoints; it goes on with what was there."""
        libc.ptrace(PTRACE_GETREGS, thread, 0, ctypes.addressof(self.registers))
        after = struct.unpack_from("<Q", self.registers, RIP_OFFSET)[0]
        address = after - 1 - self.base
        if address not in self.first_bytes:
            return False
        if address not in self.ran:
            self.ran[address] = True
            os.pwrite(self.memory, self.first_bytes[address], after - 1)
        struct.pack_into("<Q", self.registers, RIP_OFFSET, after - 1)
        libc.ptrace(PTRACE_SETREGS, thread, 0, ctypes.addressof(self.registers))
        return True


def trace(pid, tracee):
    """Until the program has ended; its exit code."""
    code = 0
    while True:
        try:
            thread, status = os.waitpid(-1, WAIT_ALL_THREADS)
        except ChildProcessError:
            return code
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status) if thread == pid else code
            continue
        passed_on = os.WSTOPSIG(status)
        is_ptrace_event, is_new_thread = status >> 16 != 0, passed_on == signal.SIGSTOP
        if is_ptrace_event or is_new_thread or (passed_on == signal.SIGTRAP and tracee.stepped_on(thread)):
            passed_on = 0
        libc.ptrace(PTRACE_CONT, thread, 0, int(passed_on))


def main():
    out, program, *arguments = sys.argv[1:]
    names = functions(program)
    pid = os.fork()
    if pid == 0:
        libc.ptrace(PTRACE_TRACEME, 0, 0, 0)
        os.execv(program, [program, *arguments])
    os.waitpid(pid, 0)
    libc.ptrace(PTRACE_SETOPTIONS, pid, 0, O_TRACECLONE | O_EXITKILL)
    tracee = Tracee(pid, program, names)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    libc.ptrace(PTRACE_CONT, pid, 0, 0)
    code = trace(pid, tracee)
    pathlib.Path(out).write_text("".join(f"{name}\n" for address in tracee.ran for name in names[address]))
    sys.exit(code & 0xFF)


if __name__ == "__main__":
    main()
