/* What a program may do to its descriptors, under `portlease run` with one source address and one
   port: a second connection to the same destination is refused for as long as the first has the
   lease, so every step shows whether that was released. `hooks TEST` ends with 0 if all was so. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif

#define CHECK(what)                                                                                \
  do {                                                                                             \
    if (!(what)) {                                                                                 \
      fprintf(stderr, "%s:%d: not so: %s (errno %d: %s)\n", __FILE__, __LINE__, #what, errno,      \
              strerror(errno));                                                                    \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

static struct sockaddr_in at(const char *address, int port) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, address, &in.sin_addr);
  return in;
}

static struct sockaddr_in here, there, nobody;

static int listener(struct sockaddr_in *address) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  socklen_t len = sizeof *address;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  CHECK(bind(fd, (struct sockaddr *)address, len) == 0 && listen(fd, 4096) == 0);
  CHECK(getsockname(fd, (struct sockaddr *)address, &len) == 0);
  return fd;
}

static int connect_to(int fd, struct sockaddr_in *to) {
  return connect(fd, (struct sockaddr *)to, sizeof *to);
}

/* A socket whose close resets its connection, so that the kernel forgets it at once. */
static int new_socket(int family, int type) {
  int fd = socket(family, type, 0);
  struct linger none = {.l_onoff = 1};
  CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none) == 0);
  return fd;
}

/* A connection to `here`, or -1. */
static int dial(void) {
  int fd = new_socket(AF_INET, SOCK_STREAM);
  if (connect_to(fd, &here) == 0) return fd;
  int why = errno;
  close(fd);
  errno = why;
  return -1;
}

static void taken(void) { CHECK(dial() == -1 && errno == EADDRNOTAVAIL); }

static void is_free(void) {
  int fd = dial();
  CHECK(fd >= 0);
  taken();
  CHECK(close(fd) == 0);
}

static int port_of(int fd) {
  struct sockaddr_in in;
  socklen_t len = sizeof in;
  CHECK(getsockname(fd, (struct sockaddr *)&in, &len) == 0);
  return ntohs(in.sin_port);
}

static void closing(void) {
  int fd = dial();
  taken();
  errno = 77;
  CHECK(close(fd) == 0 && errno == 77);
  is_free();
  CHECK(close(fd) == -1 && errno == EBADF);
  fd = dial();
  CHECK(close_range(fd, fd, CLOSE_RANGE_CLOEXEC) == 0);
  taken();
  CHECK(close_range(fd, fd + 5, 0) == 0);
  is_free();
  FILE *file = fdopen(dial(), "r+");
  taken();
  CHECK(fclose(file) == 0);
  is_free();
  fd = dial();
  int null = open("/dev/null", O_RDWR);
  CHECK(dup2(null, -1) == -1 && dup2(null, fd) == fd);
  is_free();
  close(fd);
  CHECK((fd = dial()) >= 0 && dup3(null, fd, O_CLOEXEC) == fd);
  is_free();
  /* All there are; the library's own file is not among them. */
  CHECK(dial() >= 0);
  closefrom(3);
  listener(&here);
  is_free();
  CHECK(dial() >= 0);
  for (int each = 3; each < 2000; each++) close(each);
  listener(&here);
  is_free();
}

static void copies(void) {
  int first = dial();
  int copy[] = {dup(first), fcntl(first, F_DUPFD, 200), fcntl(first, F_DUPFD_CLOEXEC, 300),
                dup2(first, 400), dup3(first, 1500, O_CLOEXEC)};
  CHECK(copy[1] >= 200 && copy[2] >= 300 && copy[3] == 400 && copy[4] == 1500);
  close(first);
  for (int i = 0; i < 5; i++) {
    taken();
    close(copy[i]);
  }
  is_free();
  CHECK(dup2(copy[0], copy[0]) == -1 && errno == EBADF);
  first = dial();
  CHECK(dup2(first, first) == first);
  taken();
  close(first);
  is_free();
}

/* Closed so that no hook sees it. */
static void unseen(void) {
  int fd = dial();
  syscall(SYS_close, fd);
  int again = dial(); /* The same number. */
  CHECK(again == fd);
  syscall(SYS_close, again);
  int other = open("/dev/null", O_RDONLY);
  CHECK(other == fd);
  is_free(); /* By a sweep. */
  close(other);
  CHECK((fd = dial()) >= 0);
  syscall(SYS_close, fd);
  other = open("/dev/null", O_RDONLY);
  CHECK(other == fd && close(other) == 0); /* It is somebody else's by now. */
  is_free();
}

static void forking(void) {
  int fd = dial(), told[2];
  CHECK(pipe(told) == 0);
  pid_t child = fork();
  if (child == 0) {
    char byte;
    close(told[1]);
    _exit(read(told[0], &byte, 1) == 0 ? 0 : 1);
  }
  close(told[0]);
  close(fd);
  taken(); /* The child has it still. */
  close(told[1]);
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  is_free();
  fd = dial();
  child = vfork();
  if (child == 0) {
    close(fd); /* Its own descriptor, on our memory. */
    _exit(0);
  }
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  taken();
  close(fd);
  is_free();
  /* A child that closes what it inherited releases nothing of its parent's. */
  fd = dial();
  child = fork();
  if (child == 0) {
    close(fd);
    _exit(0);
  }
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  taken();
  close(fd);
  is_free();
}

static void errnos(void) {
  struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/nowhere"};
  int fd = new_socket(AF_INET, SOCK_STREAM), null = open("/dev/null", O_RDONLY);
  CHECK(connect_to(-1, &here) == -1 && errno == EBADF);
  CHECK(connect_to(9999, &here) == -1 && errno == EBADF);
  CHECK(connect_to(null, &here) == -1 && errno == ENOTSOCK);
  CHECK(connect(fd, NULL, 16) == -1 && errno == EFAULT);
  CHECK(connect(fd, (struct sockaddr *)&here, 3) == -1 && errno == EINVAL);
  int local = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(connect(local, (struct sockaddr *)&un, sizeof un) == -1 && errno == ENOENT);
  /* Refused, and then taken to where somebody listens. */
  CHECK(connect_to(fd, &nobody) == -1 && errno == ECONNREFUSED);
  CHECK(connect_to(fd, &here) == 0);
  CHECK(connect_to(fd, &here) == -1 && errno == EISCONN);
  CHECK(connect_to(fd, &there) == -1 && errno == EISCONN);
  taken();
  close(fd);
  is_free();
  fd = new_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
  int answer = connect_to(fd, &nobody);
  CHECK(answer == -1 && (errno == EINPROGRESS || errno == ECONNREFUSED));
  close(fd);
  is_free();
}

/* Registered before it is connected, as event loops do. All ports but the last of sixteen are
   strangers', so some are tried in vain. */
static void events(int first_port) {
  enum { STRANGERS = 15 };
  int on = 1, stranger[STRANGERS];
  for (int i = 0; i < STRANGERS; i++) {
    struct sockaddr_in source = at("127.0.0.2", first_port + i);
    stranger[i] = new_socket(AF_INET, SOCK_STREAM);
    setsockopt(stranger[i], SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    CHECK(bind(stranger[i], (struct sockaddr *)&source, sizeof source) == 0);
    CHECK(syscall(SYS_connect, stranger[i], &here, sizeof here) == 0);
  }
  int loop = epoll_create1(0), fd = new_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u64 = 4711};
  CHECK(epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) == 0);
  CHECK(connect_to(fd, &here) == -1 && errno == EINPROGRESS);
  for (int tries = 0; tries < 100; tries++) {
    event.data.u64 = 0;
    CHECK(epoll_wait(loop, &event, 1, 5000) == 1 && event.data.u64 == 4711);
    if (!(event.events & EPOLLHUP)) break; /* It was registered unconnected. */
  }
  int error = -1;
  socklen_t len = sizeof error;
  CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == 0);
  CHECK(event.events & EPOLLOUT && port_of(fd) == first_port + STRANGERS);
  taken();
  close(fd);
}

static void bound(int port) {
  struct sockaddr_in source = at("127.0.0.2", 0), other = at("127.0.0.2", 6000);
  int fd = new_socket(AF_INET, SOCK_STREAM);
  CHECK(bind(fd, (struct sockaddr *)&source, sizeof source) == 0 && connect_to(fd, &here) == 0);
  CHECK(port_of(fd) == port);
  taken();
  close(fd);
  is_free();
  /* Who asks for its port gets one, and the other one when it connects. */
  fd = new_socket(AF_INET, SOCK_STREAM);
  CHECK(bind(fd, (struct sockaddr *)&source, sizeof source) == 0 && port_of(fd) > 0);
  CHECK(connect_to(fd, &here) == 0 && port_of(fd) == port);
  taken();
  close(fd);
  is_free();
  /* A port of the program's own choice is none of our affair. */
  fd = new_socket(AF_INET, SOCK_STREAM);
  CHECK(bind(fd, (struct sockaddr *)&other, sizeof other) == 0 && connect_to(fd, &here) == 0);
  CHECK(port_of(fd) == 6000);
  is_free();
  close(fd);
  /* Nor is a server's. */
  fd = new_socket(AF_INET, SOCK_STREAM);
  CHECK(bind(fd, (struct sockaddr *)&source, sizeof source) == 0 && listen(fd, 1) == 0);
  struct sockaddr_in mine = at("127.0.0.2", port_of(fd));
  CHECK(ntohs(mine.sin_port) > 0);
  int client = new_socket(AF_INET, SOCK_STREAM);
  CHECK(connect_to(client, &mine) == 0 && accept(fd, NULL, NULL) >= 0);
  close(client);
  close(fd);
}

static void families(void) {
  struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = here.sin_port};
  inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
  int fd = new_socket(AF_INET6, SOCK_STREAM);
  CHECK(connect(fd, (struct sockaddr *)&mapped, sizeof mapped) == 0);
  taken();
  close(fd);
  is_free();
  /* No source is of this family: the kernel's choice. */
  struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
  socklen_t len = sizeof six;
  int server = new_socket(AF_INET6, SOCK_STREAM);
  CHECK(bind(server, (struct sockaddr *)&six, len) == 0 && listen(server, 1) == 0);
  CHECK(getsockname(server, (struct sockaddr *)&six, &len) == 0);
  fd = new_socket(AF_INET6, SOCK_STREAM);
  CHECK(connect(fd, (struct sockaddr *)&six, sizeof six) == 0);
  close(fd);
}

static void datagrams(int port) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0), second = socket(AF_INET, SOCK_DGRAM, 0);
  CHECK(connect_to(fd, &here) == 0 && port_of(fd) == port);
  CHECK(connect_to(second, &here) == -1 && errno == EADDRNOTAVAIL);
  CHECK(connect_to(second, &there) == 0 && port_of(second) == port);
  CHECK(connect_to(fd, &there) == -1 && errno == EADDRNOTAVAIL);
  close(second);
  CHECK(connect_to(fd, &there) == 0);
  second = socket(AF_INET, SOCK_DGRAM, 0);
  CHECK(connect_to(second, &here) == 0);
  close(fd);
  close(second);
}

static void *churn(void *unused) {
  for (int i = 0; i < 300; i++) {
    int fd = dial();
    CHECK(fd >= 0);
    close(fd);
  }
  return unused;
}

/* Threads that connect and close while others fork, and children that connect. */
static void threads(void) {
  pthread_t thread[4];
  alarm(60);
  for (int i = 0; i < 4; i++) CHECK(pthread_create(&thread[i], NULL, churn, NULL) == 0);
  for (int i = 0; i < 60; i++) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(30);
      int fd = dial();
      _exit(fd >= 0 && close(fd) == 0 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
}

static void *blocked(void *unused) {
  int fd = new_socket(AF_INET, SOCK_STREAM);
  struct timeval patience = {.tv_sec = 1};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  connect_to(fd, &there);
  for (;;) sleep(1);
  return unused;
}

/* A thread that is cancelled while it connects to a listener whose queue is full. */
static void cancelling(void) {
  int server = listener(&there);
  CHECK(listen(server, 0) == 0);
  for (int i = 0; i < 3; i++) {
    int fd = new_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
    CHECK(connect_to(fd, &there) == 0 || errno == EINPROGRESS);
  }
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, blocked, NULL) == 0);
  usleep(200 * 1000);
  void *result;
  CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0);
  CHECK(result == PTHREAD_CANCELED);
  int fd = dial();
  CHECK(fd >= 0 && close(fd) == 0);
}

/* So many connections to one destination, or dead at the first that fails. */
static void many(int count) {
  for (int i = 0; i < count; i++) {
    if (dial() < 0) {
      fprintf(stderr, "connection %d: %s\n", i + 1, strerror(errno));
      exit(1);
    }
  }
  printf("%d connections\n", count);
}

int main(int argc, char **argv) {
  const char *test = argc > 1 ? argv[1] : "";
  int number = argc > 2 ? atoi(argv[2]) : 0;
  alarm(100);
  here = at("127.0.0.1", 0), there = at("127.0.0.1", 0), nobody = at("127.0.0.1", 9);
  if (strcmp(test, "datagrams") == 0) {
    here.sin_port = htons(7001), there.sin_port = htons(7002);
    datagrams(number);
    return 0;
  }
  listener(&here), listener(&there);
  if (strcmp(test, "closing") == 0) closing();
  else if (strcmp(test, "copies") == 0) copies();
  else if (strcmp(test, "unseen") == 0) unseen();
  else if (strcmp(test, "forking") == 0) forking();
  else if (strcmp(test, "errnos") == 0) errnos();
  else if (strcmp(test, "events") == 0) events(number);
  else if (strcmp(test, "bound") == 0) bound(number);
  else if (strcmp(test, "families") == 0) families();
  else if (strcmp(test, "threads") == 0) threads();
  else if (strcmp(test, "cancelling") == 0) there.sin_port = 0, cancelling();
  else if (strcmp(test, "many") == 0) many(number);
  else return 2;
  return 0;
}
