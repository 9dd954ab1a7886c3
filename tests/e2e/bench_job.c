// The inner loops of mount-scripts/bench, so that what is measured is the filesystem and not an interpreter.
//   bench_job write DIR PROCESSES BLOCK SYNC WARM SECONDS SPAN   each process writes blocks one after the other into a file of its own
//                                                                 of SPAN bytes, again and again; with SYNC 1 an fsync after each
//   bench_job files DIR COUNT BYTES SYNC SECONDS                 creates, writes and closes files, until there are COUNT or the time is up
// Prints: operations a second, p50, p99, p99.9 (us) of those measured, operations in all.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST (1 << 20)

struct result {
    long measured, all;
    double seconds;
    uint32_t ns[MOST];
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what, const char *where) {
    fprintf(stderr, "%s %s: %s\n", what, where, strerror(errno));
    exit(1);
}

static void note(struct result *r, double seconds) {
    r->ns[r->measured++ % MOST] = seconds > 4 ? UINT32_MAX : (uint32_t)(seconds * 1e9);
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(struct result **r, int n) {
    long kept = 0, all = 0;
    double rate = 0;
    for (int i = 0; i < n; i++)
        kept += r[i]->measured < MOST ? r[i]->measured : MOST;
    uint32_t *ns = malloc((kept + 1) * sizeof *ns);
    kept = 0;
    for (int i = 0; i < n; i++) {
        long mine = r[i]->measured < MOST ? r[i]->measured : MOST;
        memcpy(ns + kept, r[i]->ns, mine * sizeof *ns);
        kept += mine;
        all += r[i]->all;
        if (r[i]->seconds > 0)
            rate += r[i]->measured / r[i]->seconds;
    }
    if (!kept) {
        fprintf(stderr, "nothing was measured: all of it took longer than the time given\n");
        exit(1);
    }
    qsort(ns, kept, sizeof *ns, by_size);
    printf("%.2f %.2f %.2f %.2f %ld\n", rate, ns[kept / 2] / 1e3, ns[(long)(kept * 0.99)] / 1e3, ns[(long)(kept * 0.999)] / 1e3, all);
}

static void writer(struct result *r, const char *dir, int number, long block, int sync, double warm, double seconds, long span) {
    char path[4200];
    snprintf(path, sizeof path, "%s/w.%d.%d", dir, getppid(), number);
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (fd < 0)
        die("open", path);
    char *b = malloc(block);
    for (long i = 0; i < block; i++)
        b[i] = (char)(i * 2654435761u >> 13);
    double first = now(), begun = 0, t = first;
    for (long at = 0; t < first + warm + seconds; at = at + 2 * block > span ? 0 : at + block) {
        if (pwrite(fd, b, block, at) != block)
            die("write", path);
        if (sync && fsync(fd))
            die("fsync", path);
        double u = now();
        r->all++;
        if (t >= first + warm) {
            if (!begun)
                begun = t;
            note(r, u - t);
            r->seconds = u - begun;
        }
        t = u;
    }
    if (close(fd) || unlink(path))
        die("close", path);
}

static void *shared(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        die("mmap", "");
    return p;
}

static int write_job(char **v) {
    int n = atoi(v[1]), failed = 0;
    struct result *r[n];
    for (int i = 0; i < n; i++) {
        r[i] = shared(sizeof(struct result));
        pid_t p = fork();
        if (p < 0)
            die("fork", "");
        if (!p) {
            writer(r[i], v[0], i, atol(v[2]), atoi(v[3]), atof(v[4]), atof(v[5]), atol(v[6]));
            _exit(0);
        }
    }
    for (int status; wait(&status) > 0;)
        failed |= status;
    if (failed)
        return 1;
    report(r, n);
    return 0;
}

static int files_job(char **v) {
    long count = atol(v[1]), bytes = atol(v[2]), i;
    int sync = atoi(v[3]);
    double cap = atof(v[4]), t, first = now();
    struct result *r = shared(sizeof *r);
    char path[4200], *b = malloc(bytes);
    memset(b, 'x', bytes);
    for (i = 0, t = first; i < count && t < first + cap; i++) {
        // A directory for each thousand.
        snprintf(path, sizeof path, "%s/d%ld", v[0], i / 1000);
        if (i % 1000 == 0 && mkdir(path, 0755))
            die("mkdir", path);
        snprintf(path, sizeof path, "%s/d%ld/f%ld", v[0], i / 1000, i);
        int fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0644);
        if (fd < 0)
            die("open", path);
        if (write(fd, b, bytes) != bytes)
            die("write", path);
        if (sync && fsync(fd))
            die("fsync", path);
        if (close(fd))
            die("close", path);
        double u = now();
        note(r, u - t);
        t = u;
    }
    r->all = r->measured;
    r->seconds = t - first;
    report(&r, 1);
    return 0;
}

int main(int c, char **v) {
    if (c == 9 && !strcmp(v[1], "write"))
        return write_job(v + 2);
    if (c == 7 && !strcmp(v[1], "files"))
        return files_job(v + 2);
    fprintf(stderr, "see the head of bench_job.c\n");
    return 2;
}
