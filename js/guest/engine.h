/* The JavaScript engine's side of its interface: what its parts share. `src/abi.rs` says the same to the host. */
#ifndef STOCKADE_ENGINE_H
#define STOCKADE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quickjs.h"

/* Changes with anything below that both sides must know. */
#define ABI_VERSION 4

/* Stack a script may use of the C code that runs it, bytes; the linker gives the C code twice as much. */
#define STACK_BYTES (256 << 10)

/* Most characters of one console line. */
#define LINE_CHARACTERS_MAX (32 << 10)

/* Memory kept back so that a script that has used up all there is can still be told about, bytes. */
#define RESERVE_BYTES (64 << 10)

/* What a job may allocate before garbage is looked for the first time, bytes: most are over by then. To look for garbage is
 * to write to every object there is, those that every job begins with too. */
#define GARBAGE_BYTES (1 << 20)

/* Memory that is there for a job before more has to be asked for, bytes. */
#define ROOM_BYTES (192 << 10)

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(name) __attribute__((import_module("stockade_js"), import_name(name)))

/* What the host offers, all of it. */

/* Hands the host a request and takes as much of the reply as there is room for; returns the whole reply's length, or
 * a negative number when the host refuses. An empty request asks for the last reply again. */
IMPORT("call") int32_t host_call(uint32_t operation, const void *request, uint32_t request_bytes, void *reply,
                                 uint32_t reply_room);
/* Fills a buffer with the job's own random bytes. */
IMPORT("random") void host_random(void *bytes, uint32_t length);
/* The time, microseconds: of the wall, or since some moment before the job. */
IMPORT("clock") double host_clock(uint32_t clock);
/* Returns after so many milliseconds. */
IMPORT("sleep") void host_sleep(double ms);
/* Does not return where the job is to end; otherwise how many calls and turns of loops there may be until it is asked again. */
IMPORT("poll") int32_t host_poll(void);

/* That number, for the engine: see INTERRUPTS in build/source.rs. */
extern int host_turns;

enum clock { CLOCK_OF_THE_WALL = 0, CLOCK_THAT_ONLY_GOES_ON = 1 };

enum operation { OPERATION_LOG = 1, OPERATION_ENVIRONMENT = 2, OPERATION_PHASE = 3, OPERATION_LOOK = 4,
                 OPERATION_COMPILED = 5 };

/* Where a job is, for OPERATION_PHASE. */
enum phase { PHASE_READY = 0, PHASE_COMPILED = 1, PHASE_RAN = 2, PHASE_ENDED = 3 };

enum form { FORM_SCRIPT = 0, FORM_MODULE = 1, FORM_CHECK_SCRIPT = 2, FORM_CHECK_MODULE = 3 };

/* Beside the form: the host is told of each phase, and stacks are as deep as they can be. */
#define FORM_DEBUG 0x100

/* Beside the form: the host is told where the script is, again and again. */
#define FORM_PROFILE 0x200

/* Beside the form: the host is handed what the source compiles to, to keep it for when it comes again. */
#define FORM_KEEP 0x400

/* What the script was doing, for OPERATION_LOOK: what is on its stack, or on the innermost part of it, or waiting. */
enum look { LOOK_STACK = 0, LOOK_STACK_CUT = 1, LOOK_IDLE = 2 };

/* Most frames of a stack when somebody debugs; the engine keeps no more. */
#define DEBUG_FRAMES_MAX 64

/* How a job ended. */
enum ending {
    ENDED_WELL = 0,
    ENDED_THROWN = 1,
    ENDED_SYNTAX = 2,
    ENDED_NO_ENTRY = 3,
    ENDED_NEVER_SETTLED = 4,
    ENDED_OUTPUT_NOT_JSON = 5,
    ENDED_INPUT_NOT_JSON = 6,
    ENDED_IMPORT_REFUSED = 7,
    ENDED_OUT_OF_MEMORY = 8,
    ENDED_STACK_OVERFLOW = 9,
    ENDED_BAD_REQUEST = 10,
};

struct text {
    const char *start;
    uint32_t length;
};

/* What js_run returns the address of. */
struct reply {
    uint32_t ending;
    /* Where in the source, counted from 1; 0 where it is not known. */
    uint32_t line;
    uint32_t column;
    /* The output, or the error's name. */
    struct text value;
    struct text message;
    struct text file;
    struct text stack;
};

/* The request's parts in the order in which they come. */
enum part { PART_NAME, PART_SOURCE, PART_ENTRY, PART_INPUT, PART_CONTEXT, PART_COMPILED, PARTS };

struct request {
    uint32_t form;
    struct text parts[PARTS];
};

/* JavaScript of ours, evaluated before there is a job. */
struct script {
    const char *name;
    uint32_t length;
    const char *text;
};
extern const struct script scripts[];

extern JSRuntime *runtime;
extern JSContext *context;

/* What our JavaScript gave us: its functions, taken before any script of a user ran. */
struct ours {
    /* Text of any value, as the console shows it. */
    JSValue show;
    /* The value of the global `output`, whatever kind of variable it is. */
    JSValue output;
    /* A promise of a thing that has a `then`. */
    JSValue awaited;
    /* Milliseconds until the next timer is due, or -1. */
    JSValue next_timer;
    JSValue run_timer;
    /* Makes the job's context from the request's. */
    JSValue begin;
};
extern struct ours ours;

/* engine.c: whether the script has asked for a module, of which there are none. */
extern bool import_refused;
#define IMPORT_REFUSED "cannot import '"

/* engine.c: gives the script's last words the room that was kept back for them. */
void engine_release_reserve(void);

/* failure.c: from an exception to a reply. */
void failure_describe(struct reply *reply, enum ending ending, const struct text *file);
void failure_say(struct reply *reply, enum ending ending, const char *name, const char *message);
JSValue failure_frames(JSContext *c, JSValueConst this, int argc, JSValueConst *argv);

/* heap.c: what set-up leaves to a job; the memory that is kept back. */
void *heap_settle(void);

/* host.c: memory, time, chance. */
extern const JSMallocFunctions host_memory;
extern bool host_memory_refused;
void host_random_begin(void);
JSValue host_math_random(JSContext *c, JSValueConst this, int argc, JSValueConst *argv);

/* natives.c: what our JavaScript is built on. */
JSValue natives_object(JSContext *c);

/* profile.c: begins to look, which cannot be ended; whether that was possible. */
bool profile_begin(void);
/* Tells the host what has just been done, if anybody asked. */
void profile_mark(enum look kind);

/* waiting.c: promises, microtasks, timers. */
void waiting_install(void);
/* Runs what is queued, timers too if `timers`, until nothing is left or `promise` (unless undefined) is settled. */
int waiting_run(JSValueConst promise, bool timers);
/* The value of a promise, or an exception; other values are returned as they are. Takes the value. Sets `*never` when
 * nothing is left that could settle it. */
JSValue waiting_settle(JSValue value, bool *never);
/* Throws the reason of a promise that was rejected and that nobody looked at, if there is one. */
int waiting_unhandled(void);

#endif
