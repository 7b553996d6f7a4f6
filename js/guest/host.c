/* Memory, time and chance: what the engine would have from an operating system. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* Memory. The engine counts what it holds to decide when to collect garbage, so it must be told sizes. */

size_t malloc_usable_size(const void *block);

/* Whether the host has refused memory since the job began. */
bool host_memory_refused;

static void *noted(void *block, size_t bytes)
{
    if (!block && bytes)
        host_memory_refused = true;
    return block;
}

static void *memory_calloc(void *opaque, size_t count, size_t bytes)
{
    return noted(calloc(count, bytes), count * bytes);
}

static void *memory_malloc(void *opaque, size_t bytes)
{
    return noted(malloc(bytes), bytes);
}

static void memory_free(void *opaque, void *block)
{
    free(block);
}

static void *memory_realloc(void *opaque, void *block, size_t bytes)
{
    return noted(realloc(block, bytes), bytes);
}

static size_t memory_usable_size(const void *block)
{
    return block ? malloc_usable_size(block) : 0;
}

const JSMallocFunctions host_memory = {
    .js_calloc = memory_calloc,
    .js_malloc = memory_malloc,
    .js_free = memory_free,
    .js_realloc = memory_realloc,
    .js_malloc_usable_size = memory_usable_size,
};

/* Time. The crate's stand-in for a libc's clocks asks for this function, which it would import from the host. */

double __rquickjs_host_now_us(void);

double __rquickjs_host_now_us(void)
{
    return host_clock(CLOCK_OF_THE_WALL);
}

/* Chance: xoshiro256**, seeded for each job from the host. Good enough for Math.random and nothing else. */

static uint64_t chance[4];

static uint64_t rotated(uint64_t bits, int by)
{
    return bits << by | bits >> (64 - by);
}

void host_random_begin(void)
{
    host_random(chance, sizeof chance);
    /* All zeros is the one state it never leaves. */
    chance[0] |= 1;
}

JSValue host_math_random(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    uint64_t drawn = rotated(chance[1] * 5, 7) * 9;
    uint64_t shifted = chance[1] << 17;
    chance[2] ^= chance[0];
    chance[3] ^= chance[1];
    chance[1] ^= chance[2];
    chance[0] ^= chance[3];
    chance[2] ^= shifted;
    chance[3] = rotated(chance[3], 45);
    return JS_NewFloat64(c, (double)(drawn >> 11) * 0x1.0p-53);
}
