/* The heap as a job finds it.
 *
 * Setting the engine up leaves gaps all over the memory it took: what it freed again. A job that were given those would
 * write to page after page of what all jobs begin with, and each such page is one that its process has to copy first.
 * So the gaps are filled, and a job allocates from a stretch of its own, at the end. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define WASM_PAGE_BYTES (64 << 10)

/* Largest and smallest gap that is looked for, bytes. */
#define GAP_BYTES_MAX 4096
#define GAP_BYTES_MIN 512

/* The engine keeps small blocks, with their headings, in arenas of one size each. Of those up to so many bytes more than one
 * fits into an arena as small as a job's first are: see build/source.rs. */
#define BLOCK_BYTES_MAX 288
#define BLOCK_HEADING_BYTES 8

/* Where a filling is written to, so that no compiler thinks it is none. */
static void *volatile filled;

static char *end_of_memory(void)
{
    return (char *)(__builtin_wasm_memory_size(0) * WASM_PAGE_BYTES);
}

static void fill_gaps(const char *end, size_t bytes)
{
    char *gap;
    while ((gap = malloc(bytes)) && gap < end) {
        memset(gap, 0, bytes);
        filled = gap;
    }
    free(gap);
}

/* An arena of each of these sizes, in one stretch behind `end`. One block of it stays taken, or it would be given back. */
static void make_arenas(const char *end)
{
    int bytes = 16;
    while (bytes <= BLOCK_BYTES_MAX) {
        do
            filled = js_malloc_rt(runtime, (size_t)bytes - BLOCK_HEADING_BYTES);
        while (filled && (const char *)filled < end);
        bytes += bytes < 128 ? 8 : bytes < 256 ? 16 : 32;
    }
}

void *heap_settle(void)
{
    const char *end = end_of_memory();
    for (size_t bytes = GAP_BYTES_MAX; bytes >= GAP_BYTES_MIN; bytes /= 2)
        fill_gaps(end, bytes);
    void *reserve = malloc(RESERVE_BYTES);
    make_arenas(end);
    /* Grown now, it need not grow for most jobs. */
    filled = malloc(ROOM_BYTES);
    free(filled);
    JSMemoryUsage usage;
    JS_ComputeMemoryUsage(runtime, &usage);
    JS_SetGCThreshold(runtime, (size_t)usage.malloc_size + GARBAGE_BYTES);
    return reserve;
}
