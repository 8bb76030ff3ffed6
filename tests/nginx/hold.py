"""Holds many requests in an upstream at once.

    hold.py LISTEN FRONT PATH MANY MORE [STATUS]

Listens on 127.0.0.1:LISTEN, sends MANY requests for PATH to 127.0.0.1:FRONT, and waits until as many
connections have come out of the proxy. Then MORE requests must be answered by somebody else, with
STATUS (200 by default), and after that the MANY are answered. Prints how many sources it has seen."""

import socket
import sys
import threading

listen, front, path, many = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
more, status = int(sys.argv[5]), sys.argv[6] if sys.argv[6:] else "200"
server = socket.create_server(("127.0.0.1", listen), backlog=4096)
server.settimeout(30)
request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{front}\r\n\r\n".encode()


def ask():
    client = socket.create_connection(("127.0.0.1", front), timeout=30)
    client.sendall(request)
    return client


def answer(client):
    said = b""
    while part := client.recv(4096):
        said += part
    client.close()
    return said


clients, held = [], []


def take():
    for _ in range(many):
        held.append(server.accept())


taker = threading.Thread(target=take)
taker.start()
for _ in range(many):
    clients.append(ask())
taker.join()
sources = {source for _, source in held}
print(f"{len(held)} held from {len(sources)} sources")
assert len(sources) == many
for _ in range(more):
    said = answer(ask())
    assert said.split()[1] == status.encode() and not said.endswith(b"held\n"), said
for upstream, _ in held:
    upstream.recv(4096)
    upstream.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nheld\n")
    upstream.close()
for client in clients:
    said = answer(client)
    assert said.split()[1] == b"200" and said.endswith(b"held\n"), said
