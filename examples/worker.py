"""A worker in Python, of its standard library alone. It knows of fdbroker what the tables in the documentation of the
module `wire` say, and nothing else.

Its channel is its standard input. Each argument is a request, as "read /etc/hostname"; each line of its output says what
came of it. `worker.py --help` lists the verbs.
"""

import array
import errno
import os
import socket
import struct
import sys

STREAM, DATAGRAM = 1, 2
REASONS = " denied path failed kind verb impossible not-held limit".split(" ")


def address(kind, where):
    """`192.0.2.1:80`, `[2001:db8::1]:80`, `/a/path` or `@abstract`, with a type of socket."""
    if where[0] in "/@":
        return struct.pack("<BBH", 1 + where.startswith("@"), kind, 0) + os.fsencode(where.removeprefix("@"))
    host, port = where.rsplit(":", 1)
    if host[0] == "[":
        return struct.pack("<BBH16sI", 6, kind, int(port), socket.inet_pton(socket.AF_INET6, host[1:-1]), 0)
    return struct.pack("<BBH4s", 4, kind, int(port), socket.inet_aton(host))


def opening(access):
    return 0x10, lambda path: struct.pack("<H", access) + os.fsencode(path)


# Each verb's number, and its body.
VERBS = {
    "hello": (0x01, lambda: b""),
    "ready": (0x03, lambda: b""),
    "read": opening(0x01),
    "write": opening(0x02),
    "append": opening(0x04),
    "truncate": opening(0x02 | 0x08),
    "create": opening(0x02 | 0x10 | 0x20),
    "directory": opening(0x80),
    "scratch": (0x11, lambda: b""),
    "list": (0x12, lambda path, start=0: struct.pack("<Q", start) + os.fsencode(path)),
    "stat": (0x13, os.fsencode),
    "readlink": (0x14, os.fsencode),
    "mkdir": (0x15, os.fsencode),
    "unlink": (0x16, os.fsencode),
    "rmdir": (0x17, os.fsencode),
    "rename": (0x18, lambda old, new: struct.pack("<H", len(os.fsencode(old))) + os.fsencode(old) + os.fsencode(new)),
    "listen": (0x20, lambda where: address(STREAM, where)),
    "bind": (0x21, lambda where: address(DATAGRAM, where)),
    "connect": (0x22, lambda where: address(STREAM, where)),
    "connect-udp": (0x22, lambda where: address(DATAGRAM, where)),
    "connect-name": (0x23, lambda host, port: struct.pack("<BBH", STREAM, 0, int(port)) + host.encode()),
    "call": (0x30, lambda name, said="": struct.pack("<IB", 0, len(name)) + (name + said).encode()),
}


class Refused(Exception):
    def __init__(self, body):
        reason, _, number = struct.unpack("<HHi", body)
        super().__init__(f"{REASONS[reason]} {errno.errorcode.get(number, number)}")


class Broker:
    def __init__(self, channel):
        self.channel, self.last = channel, 0

    def ask(self, verb, body):
        """What the broker tells, and the descriptors that it gives."""
        self.last += 1
        self.channel.send(struct.pack("<2sBBQIHH", b"fb", 1, verb, self.last, len(body), 0, 0) + body)
        room = socket.CMSG_LEN(253 * 4)
        message, control, flags, _ = self.channel.recvmsg(16384, room, socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if not message:
            sys.exit("the broker has hung up")
        magic, version, answer, number, length, count, zero = struct.unpack_from("<2sBBQIHH", message)
        body = message[20:]
        lost = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        if lost or (magic, version, number, length, count, zero) != (b"fb", 1, self.last, len(body), len(fds), 0):
            sys.exit("this is no answer to the request")
        if answer == 0x81:
            raise Refused(body)
        return body, [int(fd) for fd in fds]


def names(broker, path):
    """A directory may take several requests, each of which goes on where the one before ended."""
    found, start, more = [], 0, 1
    while more:
        verb, body = VERBS["list"]
        data, _ = broker.ask(verb, body(path, start))
        start, more = struct.unpack_from("<QB", data)
        data = data[9:]
        while data:
            length = data[9]  # behind the inode's number and the type
            found.append(os.fsdecode(data[10 : 10 + length]))
            data = data[10 + length :]
    return " ".join(sorted(found)).encode()


def use(verb, data, fds):
    """Does something with what was granted, and says what."""
    if verb == "stat":
        mode, links, _, _, size = struct.unpack_from("<IIIIQ", data)
        return f"mode {mode:o}, {links} links, {size} bytes"
    if verb in ("write", "append", "truncate", "create"):
        return f"{os.write(fds[0], b'line')} bytes written"
    if verb == "read":
        return os.read(fds[0], 100).decode()
    if verb in ("listen", "bind", "connect-udp", "connect", "connect-name"):
        with socket.socket(fileno=os.dup(fds[0])) as end:
            if verb in ("connect", "connect-name"):
                return end.recv(100).decode()
            return f"listens: {end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)}"
    return data.decode() + f" and {len(fds)} descriptors" * bool(fds)


def main(requests):
    broker = Broker(socket.socket(fileno=0))
    for request in requests:
        verb, *words = request.split(" ")
        number, body = VERBS[verb]
        try:
            data, fds = (names(broker, *words), []) if verb == "list" else broker.ask(number, body(*words))
            print(f"{request}: granted: {use(verb, data, fds)}")
            for fd in fds:
                os.close(fd)
        except Refused as refused:
            print(f"{request}: refused: {refused}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--help"]:
        sys.exit("verbs: " + " ".join(VERBS))
    main(sys.argv[1:] or ["hello"])
