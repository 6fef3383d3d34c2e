// As much of libnccl as worker::nccl calls, between threads of one process. It is strict about its arguments: each rule
// of nccl.h that can be broken is an error here. The version is PLAYED_NCCL_VERSION.
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, IN_PROGRESS = 7, MOST = 8 };
typedef struct { char bytes[128]; } id;
typedef struct { int pending; } stream;
// ncclConfig_t as 2.17 and 2.18 had it, which later versions take as the beginning of theirs.
typedef struct {
    size_t size; unsigned magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name; int split_share;
} config;
typedef struct group {
    long key; int world, came;
    float *buffers[MOST]; stream *streams[MOST];
    struct group *shrunk; long growing;
} group;
typedef struct { group *group; int rank, asked; } comm;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static group groups[256];
static long made, keys;
static int aborts;

int played_aborts(void) { return __atomic_load_n(&aborts, __ATOMIC_ACQUIRE); }

int ncclGetVersion(int *version) {
    const char *text = getenv("PLAYED_NCCL_VERSION");
    *version = text ? atoi(text) : 23003;
    return OK;
}

const char *ncclGetErrorString(int code) { return code == INVALID_ARGUMENT ? "invalid argument" : "invalid usage"; }

static int valid(const config *c) {
    return c && c->size == sizeof(config) && c->magic == 0xcafebeef && c->version >= 21400 && c->blocking == 0
        && c->cga_cluster_size == INT_MIN && c->min_ctas == INT_MIN && c->max_ctas == INT_MIN && !c->net_name
        && c->split_share == INT_MIN;
}

static group *find(long key, int world) {
    for (long i = 0; i < made; i++)
        if (groups[i].key == key) return groups[i].world == world ? &groups[i] : NULL;
    groups[made] = (group){.key = key, .world = world};
    return &groups[made++];
}

static int join(comm **out, group *joined, int rank) {
    if (!joined || rank < 0 || rank >= joined->world || joined->world > MOST) return INVALID_ARGUMENT;
    *out = calloc(1, sizeof(comm));
    **out = (comm){.group = joined, .rank = rank};
    return IN_PROGRESS;
}

static void fresh(id *made_id) {
    long key = ++keys;
    memset(made_id, 0, sizeof *made_id);
    memcpy(made_id->bytes + 64, &key, sizeof key);
}

static long key_of(const id *given) { long key; memcpy(&key, given->bytes + 64, sizeof key); return key; }

int ncclGetUniqueId(id *out) {
    pthread_mutex_lock(&lock); fresh(out); pthread_mutex_unlock(&lock);
    return OK;
}

int ncclCommInitRankConfig(comm **out, int world, id given, int rank, config *c) {
    if (!valid(c)) return INVALID_ARGUMENT;
    pthread_mutex_lock(&lock);
    int code = join(out, find(key_of(&given), world), rank);
    pthread_mutex_unlock(&lock);
    return code;
}

// The first answer is always that it goes on.
int ncclCommGetAsyncError(comm *c, int *state) {
    if (!c) return INVALID_ARGUMENT;
    *state = c->asked++ ? OK : IN_PROGRESS;
    return OK;
}

int ncclAllReduce(const void *send, void *receive, size_t count, int type, int op, comm *c, stream *s) {
    if (!c || send != receive || type != 7 || op == 1) return INVALID_ARGUMENT;
    pthread_mutex_lock(&lock);
    group *g = c->group;
    __atomic_store_n(&s->pending, 1, __ATOMIC_RELEASE);
    g->buffers[c->rank] = receive;
    g->streams[c->rank] = s;
    if (++g->came == g->world) {
        g->came = 0;
        for (size_t i = 0; i < count; i++) {
            float all = g->buffers[0][i];
            for (int r = 1; r < g->world; r++) {
                float one = g->buffers[r][i];
                all = op == 2 ? (one > all ? one : all) : op == 3 ? (one < all ? one : all) : all + one;
            }
            if (op == 4) all /= (float)g->world;
            for (int r = 0; r < g->world; r++) g->buffers[r][i] = all;
        }
        for (int r = 0; r < g->world; r++) __atomic_store_n(&g->streams[r]->pending, 0, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
    return OK;
}

int ncclCommShrink(comm *c, int *gone, int count, comm **out, config *conf, int flags) {
    if (!c || !gone || count < 1 || !valid(conf) || flags != 1) return INVALID_ARGUMENT;
    int rank = c->rank;
    for (int i = 0; i < count; i++) {
        if (gone[i] == c->rank || gone[i] < 0 || gone[i] >= c->group->world) return INVALID_USAGE;
        rank -= gone[i] < c->rank;
    }
    pthread_mutex_lock(&lock);
    group *parent = c->group;
    if (!parent->shrunk) parent->shrunk = find(++keys, parent->world - count);
    int code = join(out, parent->shrunk, rank);
    pthread_mutex_unlock(&lock);
    return code;
}

int ncclCommGetUniqueId(comm *c, id *out) {
    if (!c) return INVALID_ARGUMENT;
    pthread_mutex_lock(&lock);
    fresh(out);
    c->group->growing = key_of(out);
    pthread_mutex_unlock(&lock);
    return OK;
}

int ncclCommGrow(comm *c, int world, const id *given, int rank, comm **out, config *conf) {
    if (!valid(conf)) return INVALID_ARGUMENT;
    // Existing ranks keep their number and only the first passes the id; new ones pass both.
    if (c && (rank != -1 || (c->rank == 0) != (given != NULL) || world <= c->group->world)) return INVALID_USAGE;
    if (!c && (rank < 0 || !given)) return INVALID_USAGE;
    pthread_mutex_lock(&lock);
    int code = join(out, find(c ? c->group->growing : key_of(given), world), c ? c->rank : rank);
    pthread_mutex_unlock(&lock);
    return code;
}

int ncclCommAbort(comm *c) {
    if (!c) return INVALID_ARGUMENT;
    __atomic_add_fetch(&aborts, 1, __ATOMIC_ACQ_REL);
    free(c);
    return OK;
}
