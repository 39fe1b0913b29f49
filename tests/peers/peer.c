/* A peer of fdbroker in C, with the CMSG macros alone.
 *
 * Its end of the socket is its standard input. It answers each message until the other end is gone, says so, and ends.
 *
 *     peer packets        the kernel keeps messages apart: SEQPACKET or DGRAM
 *     peer lengths        a stream; before each message its length, u32, little-endian, which both programs agree on
 *     peer frames STEP    the frames of fdbroker's Kind::Stream, read and written at most STEP bytes at a time
 *
 * An answer has the bytes of the message in reverse, then a line for each of its descriptors (device, inode, what the
 * file says), and the same descriptors in reverse, behind which comes the reading end of a pipe of this process's own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { END = 0, MOST = 253, LONGEST = 1 << 21, HEADER = 8 };

struct message {
    size_t length;
    size_t count;
    int fds[MOST + 1];
    char bytes[LONGEST];
};

static void fail(const char *what)
{
    fprintf(stderr, "peer: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void hung_up(const char *how)
{
    printf("%s\n", how);
    exit(0);
}

/* One recvmsg. Adds the descriptors that came to the message's. */
static size_t receive_some(char *bytes, size_t length, struct message *message)
{
    union {
        char room[CMSG_SPACE(MOST * sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct iovec part = { .iov_base = bytes, .iov_len = length };
    struct msghdr header = { 0 };
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = &control;
    header.msg_controllen = sizeof control;
    ssize_t received = recvmsg(END, &header, MSG_CMSG_CLOEXEC);
    if (received < 0 && errno == ECONNRESET)
        hung_up("hung up");
    if (received < 0)
        fail("recvmsg");
    if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        fail("the message was cut");
    for (struct cmsghdr *block = CMSG_FIRSTHDR(&header); block != NULL; block = CMSG_NXTHDR(&header, block)) {
        if (block->cmsg_level != SOL_SOCKET || block->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (block->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (message->count + count > MOST)
            fail("more descriptors than one message can have");
        memcpy(message->fds + message->count, CMSG_DATA(block), count * sizeof(int));
        message->count += count;
    }
    return (size_t)received;
}

/* One sendmsg, with descriptors. Answers how many bytes went. */
static size_t send_some(const char *bytes, size_t length, const int *fds, size_t count)
{
    union {
        char room[CMSG_SPACE(MOST * sizeof(int))];
        struct cmsghdr aligned;
    } control = { { 0 } };
    struct iovec part = { .iov_base = (void *)bytes, .iov_len = length };
    struct msghdr header = { 0 };
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (count > 0) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *block = CMSG_FIRSTHDR(&header);
        block->cmsg_level = SOL_SOCKET;
        block->cmsg_type = SCM_RIGHTS;
        block->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(block), fds, count * sizeof(int));
    }
    ssize_t sent = sendmsg(END, &header, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET || errno == ECONNREFUSED))
        hung_up("hung up");
    if (sent < 0)
        fail("sendmsg");
    return (size_t)sent;
}

/* Exactly so many bytes of a stream, at most `step` at a time. */
static void read_exactly(char *bytes, size_t length, size_t step, struct message *message)
{
    for (size_t at = 0; at < length;) {
        size_t wanted = length - at < step ? length - at : step;
        size_t received = receive_some(bytes + at, wanted, message);
        if (received == 0)
            hung_up(at == 0 ? "hung up" : "hung up in the middle");
        at += received;
    }
}

/* The descriptors go with the first byte. */
static void write_all(const char *bytes, size_t length, size_t step, const int *fds, size_t count)
{
    for (size_t at = 0; at < length;) {
        size_t some = length - at < step ? length - at : step;
        at += send_some(bytes + at, some, fds, at == 0 ? count : 0);
    }
}

static void put_u32(unsigned char *bytes, size_t number)
{
    for (int place = 0; place < 4; place++)
        bytes[place] = (unsigned char)(number >> (8 * place));
}

static size_t get_u32(const unsigned char *bytes)
{
    return bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16 | (size_t)bytes[3] << 24;
}

/* `header` bytes before each message of a stream: its length and, if there are 8, its number of descriptors. */
static void receive(struct message *message, size_t header, size_t step)
{
    message->count = 0;
    if (header == 0) {
        message->length = receive_some(message->bytes, sizeof message->bytes, message);
        if (message->length == 0 && message->count == 0)
            hung_up("hung up");
        return;
    }
    unsigned char numbers[HEADER];
    read_exactly((char *)numbers, header, step, message);
    size_t count = message->count;
    message->length = get_u32(numbers);
    if (message->length > sizeof message->bytes)
        fail("a longer message than is expected");
    read_exactly(message->bytes, message->length, step, message);
    if (message->count != count || (header == HEADER && get_u32(numbers + 4) != count))
        fail("not so many descriptors as were said, or not on the first byte");
}

static void answer(struct message *to, size_t header, size_t step)
{
    static char bytes[HEADER + LONGEST + MOST * 200];
    char *end = bytes + header;
    int fds[MOST + 1];
    size_t count = 0;
    for (size_t at = to->length; at > 0; at--)
        *end++ = to->bytes[at - 1];
    for (size_t at = 0; at < to->count; at++) {
        struct stat status;
        char text[100];
        ssize_t length = pread(to->fds[at], text, sizeof text, 0);
        if (length < 0 || fstat(to->fds[at], &status) != 0)
            fail("a descriptor that came");
        end += sprintf(end, "%ju:%ju:%.*s\n", (uintmax_t)status.st_dev, (uintmax_t)status.st_ino, (int)length, text);
        fds[to->count - 1 - at] = to->fds[at];
        count++;
    }
    if (0 < count && count < MOST) {
        int ends[2];
        const char made[] = "made by the peer";
        if (pipe(ends) != 0 || write(ends[1], made, sizeof made - 1) < 0)
            fail("pipe");
        close(ends[1]);
        fds[count++] = ends[0];
    }
    size_t length = (size_t)(end - bytes);
    if (header > 0)
        put_u32((unsigned char *)bytes, length - header);
    if (header == HEADER)
        put_u32((unsigned char *)bytes + 4, count);
    write_all(bytes, length, step, fds, count);
    for (size_t at = 0; at < count; at++)
        close(fds[at]);
}

int main(int argc, char **argv)
{
    static struct message message;
    const char *mode = argc > 1 ? argv[1] : "";
    size_t step = argc > 2 ? strtoul(argv[2], NULL, 10) : LONGEST + HEADER + MOST * 200;
    size_t header = strcmp(mode, "frames") == 0 ? HEADER : strcmp(mode, "lengths") == 0 ? 4 : 0;

    alarm(60); /* Whatever happens: nobody waits for this process for ever. */
    for (;;) {
        receive(&message, header, step);
        if (message.length == 3 && memcmp(message.bytes, "end", 3) == 0)
            hung_up("asked to end"); /* A datagram socket is not told of a hang-up. */
        answer(&message, header, step);
    }
}
