/* SPDX-License-Identifier: MIT */
/*
 * sheep_limit HOST PORT VID OBJECTS [IN_FLIGHT [CONNECTIONS [PIECE]]]
 *
 * The plain limit of reading a VDI of sheepdog: whole objects of 4 MiB, so many in flight
 * (4), dealt out over so many connections (4) to one gateway, received into a buffer and
 * thrown away.  Prints MB/s.  With PIECE, for three seconds pieces of so many bytes anywhere
 * in the objects; prints how many came in a second.
 */
#include <endian.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define OBJECT_BYTES ((uint32_t)4 << 20)
#define HEADER_BYTES 48
#define READ_OBJ 0x02
#define CONNECTIONS_MAX 64
#define PIECE_SECONDS 3

struct connection {
	int fd;
	unsigned int waiting; /* requests that are not answered in full */
	size_t header_used;
	uint64_t left; /* of the data of the answer under way */
	uint8_t header[HEADER_BYTES];
};

static struct connection connections[CONNECTIONS_MAX];
static char waste[1 << 20];
static uint32_t next_object, objects, vid, piece;
static unsigned long done;
static double end;

static void fail(const char *what)
{
	fprintf(stderr, "sheep_limit: %s\n", what);
	exit(1);
}

static int connect_to(const char *host, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
	int on = 1;
	int fd;

	if (getaddrinfo(host, port, &hints, &found) != 0)
		fail("no such host");
	fd = socket(found->ai_family, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) < 0)
		fail("cannot connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	freeaddrinfo(found);
	return fd;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Ask for the next object, or piece, if there is one. */
static void ask(struct connection *connection)
{
	uint8_t request[HEADER_BYTES] = {0x01, READ_OBJ};
	uint32_t index = piece ? (uint32_t)random() % objects : next_object;
	uint32_t number = htole32(next_object);
	uint32_t length = htole32(piece ? piece : OBJECT_BYTES);
	uint32_t offset =
		piece ? htole32((uint32_t)random() % (OBJECT_BYTES / piece) * piece) : 0;
	uint64_t object = htole64((uint64_t)vid << 32 | index);

	if (piece ? seconds() >= end : next_object == objects)
		return;
	next_object++;
	memcpy(request + 8, &number, sizeof(number));
	memcpy(request + 12, &length, sizeof(length));
	memcpy(request + 16, &object, sizeof(object));
	memcpy(request + 40, &offset, sizeof(offset));
	if (send(connection->fd, request, sizeof(request), 0) != HEADER_BYTES)
		fail("cannot send");
	connection->waiting++;
}

static void take_header(struct connection *connection)
{
	uint32_t length, result;

	memcpy(&length, connection->header + 12, sizeof(length));
	memcpy(&result, connection->header + 16, sizeof(result));
	if (le32toh(result) != 0 || le32toh(length) != (piece ? piece : OBJECT_BYTES))
		fail("an object cannot be read");
	connection->left = piece ? piece : OBJECT_BYTES;
	connection->header_used = 0;
}

static void receive(struct connection *connection)
{
	size_t room = HEADER_BYTES - connection->header_used;
	void *to = connection->header + connection->header_used;
	ssize_t count;

	if (connection->left > 0) {
		to = waste;
		room = connection->left < sizeof(waste) ? connection->left
							: sizeof(waste);
	}
	count = recv(connection->fd, to, room, MSG_DONTWAIT);
	if (count <= 0)
		fail("the gateway ended the connection");
	if (connection->left == 0) {
		connection->header_used += count;
		if (connection->header_used == HEADER_BYTES)
			take_header(connection);
		return;
	}
	connection->left -= count;
	if (connection->left == 0) {
		connection->waiting--;
		done++;
		ask(connection);
	}
}

int main(int argc, char **argv)
{
	struct pollfd polled[CONNECTIONS_MAX];
	unsigned int in_flight = argc > 5 ? atoi(argv[5]) : 4;
	unsigned int count = argc > 6 ? atoi(argv[6]) : 4;
	double start = seconds();

	if (argc < 5 || count < 1 || count > CONNECTIONS_MAX)
		fail("usage: sheep_limit HOST PORT VID OBJECTS [IN_FLIGHT [CONNECTIONS [PIECE]]]");
	piece = argc > 7 ? atoi(argv[7]) : 0;
	end = start + PIECE_SECONDS;
	vid = strtoul(argv[3], NULL, 16);
	objects = strtoul(argv[4], NULL, 10);
	for (unsigned int i = 0; i < count; i++)
		connections[i].fd = connect_to(argv[1], argv[2]);
	for (unsigned int i = 0; i < in_flight; i++)
		ask(&connections[i % count]);
	for (;;) {
		unsigned int waiting = 0;

		for (unsigned int i = 0; i < count; i++) {
			waiting += connections[i].waiting;
			polled[i] = (struct pollfd){.fd = connections[i].fd,
						    .events = POLLIN};
		}
		if (waiting == 0)
			break;
		if (poll(polled, count, 60000) <= 0)
			fail("no answer");
		for (unsigned int i = 0; i < count; i++)
			if (polled[i].revents)
				receive(&connections[i]);
	}
	if (piece)
		printf("%.1f\n", done / (seconds() - start));
	else
		printf("%.1f\n", objects * (OBJECT_BYTES / 1e6) / (seconds() - start));
	return 0;
}
