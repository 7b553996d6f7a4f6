#!/usr/bin/env python3
"""Submits one job to `stockade serve` and prints its output: a client written from docs/wire.md alone.

usage: wire_client.py SOCKET [--in-frames] [--dir HOST::GUEST[:ro]]... FILE [ARGS]...
                                                                          (the job's input is standard input)

HOST goes to the daemon as it is: an absolute path without symbolic links. A large module or input goes as a sealed file
in memory, and a large output comes as one; with --in-frames everything is in frames, as version 1 has it.

Exits with the job's own status when it ran to its end, else with 1.
"""

import fcntl
import os
import socket
import struct
import sys

VERSION, VERSION_IN_FRAMES = 2, 1

# From this length on, in bytes, a file in memory is worth it.
BESIDE_BYTES_MIN = 64 << 10
LENGTH_BITS = 30

# Tags, from the tables of docs/wire.md.
TO_HELLO, TO_SUBMIT = 0, 1
FROM_HELLO, FROM_ACCEPTED, FROM_REFUSED, FROM_FINISHED, FROM_PROTOCOL = 0, 1, 2, 3, 11
MODULE_BYTES, MODULE_DESCRIPTOR = 0, 2
PURPOSE_RUN = 0
VERDICTS = [
    "completed", "guest_error", "trapped", "timed_out", "out_of_fuel", "out_of_memory", "output_limit",
    "cancelled", "jail_violation", "invalid_module", "compile_limit", "denied", "worker_lost", "internal",
]
COMPLETED, GUEST_ERROR = 0, 1


# Encoding: every number has one width, everything is little-endian.

def u16(number):
    return struct.pack("<H", number)


def u32(number):
    return struct.pack("<I", number)


def u64(number):
    return struct.pack("<Q", number)


def data(content):
    return u64(len(content)) + content


def string(text):
    return data(text.encode("utf-8"))


def sequence(items):
    return u64(len(items)) + b"".join(items)


NONE = b"\x00"


def directory(grant):
    paths = grant.removesuffix(":ro")
    host, guest = paths.split("::")
    return string(host) + string(guest) + (b"\x01" if paths == grant else b"\x00")


def submission(module, name, arguments, given, directories):
    """`module` is none if it goes as a descriptor."""
    return b"".join([
        u32(MODULE_DESCRIPTOR) if module is None else u32(MODULE_BYTES) + data(module),
        string(name),
        NONE,                                   # entry
        sequence([string(argument) for argument in arguments]),
        data(given),
        sequence([]),                           # environment
        sequence([directory(grant) for grant in directories]),
        NONE,                                   # profile
        NONE * 7,                               # limits
        NONE,                                   # isolation
        NONE,                                   # tenant
        sequence([]),                           # require
        NONE,                                   # traceparent
        NONE,                                   # request_id
        u32(PURPOSE_RUN),                       # purpose
    ])


class Reader:
    """Takes values off the front of one body."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def take(self, count):
        if self.at + count > len(self.body):
            raise ValueError("the message is longer than its frame")
        part = self.body[self.at:self.at + count]
        self.at += count
        return part

    def u8(self):
        return self.take(1)[0]

    def u16(self):
        return struct.unpack("<H", self.take(2))[0]

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def u64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def i32(self):
        return struct.unpack("<i", self.take(4))[0]

    def bool(self):
        return self.u8() == 1

    def data(self):
        return self.take(self.u64())

    def string(self):
        return self.data().decode("utf-8")

    def optional(self, read):
        return read() if self.bool() else None

    def sequence(self, read):
        return [read() for _ in range(self.u64())]

    def end(self):
        if self.at != len(self.body):
            raise ValueError("the frame is longer than its message")


def read_error(reader):
    """ScriptError."""
    return {
        "name": reader.string(),
        "message": reader.string(),
        "file": reader.optional(reader.string),
        "line": reader.optional(reader.u32),
        "column": reader.optional(reader.u32),
        "stack": reader.string(),
    }


def read_result(reader):
    """JobResult, all of it, to see that it ends where the frame does."""
    result = {"job": reader.string(), "tenant": reader.string(), "module": reader.take(32)}
    result["isolation"] = reader.u32()
    result["verdict"] = reader.u32()
    result["reason"] = reader.optional(reader.string)
    result["stage"] = reader.optional(reader.u32)
    result["blame"] = reader.optional(reader.u32)
    result["retriable"] = reader.bool()
    result["message"] = reader.optional(reader.string)
    result["exit_code"] = reader.optional(reader.i32)
    result["error"] = reader.optional(lambda: read_error(reader))
    result["output"] = reader.data()
    result["stdout"], result["stderr"] = reader.data(), reader.data()
    result["dropped_bytes"], result["dropped_lines"] = reader.u64(), reader.u64()
    result["bill"] = [reader.optional(reader.u64) for _ in range(17)]
    result["seccomp"] = reader.optional(reader.string)
    result["landlock_abi"] = reader.optional(reader.u32)
    result["cgroup"] = reader.sequence(reader.string)
    result["namespaces"] = reader.sequence(reader.string)
    result["no_new_privs"] = reader.bool()
    result["capabilities_dropped"] = reader.bool()
    result["rlimits"] = reader.sequence(reader.string)
    result["mdwe"] = reader.bool()
    result["uid"] = reader.optional(reader.u32)
    result["fresh_process"] = reader.bool()
    result["missing"] = reader.sequence(lambda: [reader.string() for _ in range(3)])
    result["trace_id"] = reader.optional(reader.string)
    reader.end()
    return result


def sealed(content):
    """A file in memory that holds `content` and that nobody can change any more."""
    file = os.memfd_create("wire_client.py", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(file, "wb", closefd=False) as opened:
        opened.write(content)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return file


def send(connection, body, files=()):
    connection.sendall(u32(len(body) | len(files) << LENGTH_BITS))
    # The files with the first byte of the body, and the rest of it as ever.
    sent = socket.send_fds(connection, [body], files) if files else 0
    connection.sendall(body[sent:])


def receive_exactly(connection, count):
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 16))
        if not part:
            raise ValueError("the daemon closed the connection")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(connection):
    """The tag, the rest of the message, and the descriptors that its header announced."""
    (header,) = struct.unpack("<I", receive_exactly(connection, 4))
    length, announced = header & (1 << LENGTH_BITS) - 1, header >> LENGTH_BITS
    body, files = b"", []
    if announced:
        body, files, flags, _ = socket.recv_fds(connection, length, announced)
        if flags & socket.MSG_CTRUNC or len(files) != announced:
            raise ValueError("other descriptors came than were announced")
    reader = Reader(body + receive_exactly(connection, length - len(body)))
    tag = reader.u32()
    if tag == FROM_PROTOCOL:
        raise ValueError("the daemon closed the connection: " + reader.string())
    return tag, reader, files


def expect(connection, wanted):
    tag, reader, files = receive(connection)
    if tag != wanted:
        raise ValueError(f"expected message {wanted}, got {tag}")
    return reader, files


def submit_and_wait(path, version, module, name, arguments, given, directories):
    files = []
    if version == VERSION:
        if len(module) >= BESIDE_BYTES_MIN:
            files, module = [sealed(module)], None
        if len(given) >= BESIDE_BYTES_MIN:
            files, given = [*files, sealed(given)], b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        send(connection, u32(TO_HELLO) + u16(version) + string("wire_client.py"))
        hello, _ = expect(connection, FROM_HELLO)
        if hello.u16() != version:
            raise ValueError("the daemon speaks another version")
        hello.string()
        frame_bytes_max = hello.u64()
        hello.end()

        request = 42
        job = submission(module, name, arguments, given, directories)
        body = u32(TO_SUBMIT) + u64(request) + b"\x01" + b"\x00" + job
        if len(body) > frame_bytes_max:
            raise ValueError(f"the daemon takes at most {frame_bytes_max} bytes")
        send(connection, body, files)
        tag, answer, _ = receive(connection)
        if answer.u64() != request:
            raise ValueError("an answer to a question that was not asked")
        if tag == FROM_REFUSED:
            answer.u32()
            raise ValueError("refused: " + answer.string())
        if tag != FROM_ACCEPTED:
            raise ValueError(f"expected message {FROM_ACCEPTED}, got {tag}")
        job = answer.string()
        answer.end()

        finished, outputs = expect(connection, FROM_FINISHED)
        if finished.u64() != request:
            raise ValueError("an answer to a question that was not asked")
        result = read_result(finished)
        if result["job"] != job:
            raise ValueError("the result of another job")
        for output in outputs:
            with open(output, "rb") as opened:
                result["output"] = opened.read()
        result["beside"] = len(files), len(outputs)
        return result


def main(arguments):
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    path, *rest = arguments
    version = VERSION
    if rest[0] == "--in-frames":
        version, rest = VERSION_IN_FRAMES, rest[1:]
    directories = []
    while len(rest) > 2 and rest[0] == "--dir":
        directories.append(rest[1])
        rest = rest[2:]
    file, *rest = rest
    with open(file, "rb") as opened:
        module = opened.read()
    try:
        given = sys.stdin.buffer.read()
        result = submit_and_wait(path, version, module, os.path.basename(file), rest, given, directories)
    except (OSError, ValueError) as error:
        print(f"wire_client.py: {error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(result["output"])
    sys.stdout.buffer.flush()
    sent, came = result["beside"]
    print(f"{result['job']}: {VERDICTS[result['verdict']]}; files sent {sent}, received {came}", file=sys.stderr)
    if result["verdict"] in (COMPLETED, GUEST_ERROR) and result["exit_code"] is not None:
        return result["exit_code"] & 0xFF
    return 0 if result["verdict"] == COMPLETED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
