"""An SSH transport and nothing above it: hex lines in are messages to send, hex lines out are messages that came.

    raw_ssh.py FROM ADDRESS PORT

The first line out is the session id. curve25519-sha256, AES-256-GCM; the host key is not looked at. What no library
lets a client say before it has logged in can be said with it.
"""

import hashlib
import os
import socket
import struct
import sys
import threading

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEXINIT, NEWKEYS, ECDH_INIT, ECDH_REPLY = 20, 21, 30, 31
NAME = b"SSH-2.0-raw"


def string(data):
    return struct.pack(">I", len(data)) + data


def mpint(number):
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def take_string(data):
    (length,) = struct.unpack_from(">I", data)
    return data[4 : 4 + length], data[4 + length :]


class Sealed:
    """One direction of aes256-gcm@openssh.com: a fixed part, and a counter that rises by one a packet."""

    def __init__(self, key, iv):
        self.gcm, self.fixed, self.counter = AESGCM(key), iv[:4], int.from_bytes(iv[4:12], "big")

    def nonce(self):
        nonce = self.fixed + self.counter.to_bytes(8, "big")
        self.counter = (self.counter + 1) % 2**64
        return nonce


class Transport:
    def __init__(self, source, address, port):
        self.socket = socket.create_connection((address, port), timeout=30, source_address=(source, 0))
        self.incoming = self.socket.makefile("rb")
        self.sending = self.receiving = None
        self.socket.sendall(NAME + b"\r\n")
        self.peer = self.incoming.readline().rstrip(b"\r\n")
        self.agree()

    def send(self, payload):
        block = 16 if self.sending else 8
        around = 1 if self.sending else 5
        padding = block - (len(payload) + around) % block
        padding += block if padding < 4 else 0
        body = bytes([padding]) + payload + os.urandom(padding)
        length = struct.pack(">I", len(body))
        if self.sending:
            body = self.sending.gcm.encrypt(self.sending.nonce(), body, length)
        self.socket.sendall(length + body)

    def read(self):
        length = self.exactly(4)
        (size,) = struct.unpack(">I", length)
        if self.receiving:
            body = self.receiving.gcm.decrypt(self.receiving.nonce(), self.exactly(size + 16), length)
        else:
            body = self.exactly(size)
        return body[1 : len(body) - body[0]]

    def exactly(self, size):
        data = self.incoming.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def agree(self):
        lists = [b"curve25519-sha256", b"ssh-ed25519,ssh-ed25519-cert-v01@openssh.com"]
        lists += [b"aes256-gcm@openssh.com"] * 2 + [b"hmac-sha2-256-etm@openssh.com"] * 2 + [b"none"] * 2 + [b""] * 2
        ours = bytes([KEXINIT]) + os.urandom(16) + b"".join(map(string, lists)) + bytes(5)
        self.send(ours)
        theirs = self.read()
        secret = X25519PrivateKey.generate()
        public = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.send(bytes([ECDH_INIT]) + string(public))
        reply = self.read()
        if reply[0] != ECDH_REPLY:
            raise EOFError
        host_key, rest = take_string(reply[1:])
        their_public, _ = take_string(rest)
        shared = int.from_bytes(secret.exchange(X25519PublicKey.from_public_bytes(their_public)), "big")
        hashed = [NAME, self.peer, ours, theirs, host_key, public, their_public]
        self.session = hashlib.sha256(b"".join(map(string, hashed)) + mpint(shared)).digest()
        self.send(bytes([NEWKEYS]))
        while self.read()[0] != NEWKEYS:
            pass

        def derive(letter, length):
            start = mpint(shared) + self.session
            return hashlib.sha256(start + letter + self.session).digest()[:length]

        self.sending = Sealed(derive(b"C", 32), derive(b"A", 12))
        self.receiving = Sealed(derive(b"D", 32), derive(b"B", 12))


def main():
    source, address, port = sys.argv[1:]
    transport = Transport(source, address, int(port))
    print(transport.session.hex(), flush=True)

    def receive():
        try:
            while True:
                print(transport.read().hex(), flush=True)
        except (OSError, EOFError, ValueError):
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    for line in sys.stdin:
        transport.send(bytes.fromhex(line))


main()
