/* What a job waits for: microtasks, promises, timers. */
#include "engine.h"

/* Promises that were rejected and that nobody has looked at, with the reasons: [promise, reason, promise, …]. */
static JSValue unhandled;

static void track(JSContext *c, JSValueConst promise, JSValueConst reason, bool handled, void *opaque)
{
    int64_t length = 0;
    JS_GetLength(c, unhandled, &length);
    if (!handled) {
        JS_SetPropertyInt64(c, unhandled, length, JS_DupValue(c, promise));
        JS_SetPropertyInt64(c, unhandled, length + 1, JS_DupValue(c, reason));
        return;
    }
    for (int64_t at = 0; at + 1 < length; at += 2) {
        JSValue listed = JS_GetPropertyInt64(c, unhandled, at);
        bool same = JS_IsStrictEqual(c, listed, promise);
        JS_FreeValue(c, listed);
        if (same) {
            /* The last pair takes its place. */
            JS_SetPropertyInt64(c, unhandled, at, JS_GetPropertyInt64(c, unhandled, length - 2));
            JS_SetPropertyInt64(c, unhandled, at + 1, JS_GetPropertyInt64(c, unhandled, length - 1));
            JS_SetLength(c, unhandled, length - 2);
            return;
        }
    }
}

void waiting_install(void)
{
    unhandled = JS_NewArray(context);
    /* A list of ours: what a script does to arrays in general must not reach it. */
    JS_SetPrototype(context, unhandled, JS_NULL);
    JS_SetHostPromiseRejectionTracker(runtime, track, NULL);
}

static int run_microtasks(void)
{
    JSContext *whose;
    int ran;
    while ((ran = JS_ExecutePendingJob(runtime, &whose)) > 0)
        ;
    return ran;
}

static double milliseconds_to_wait(void)
{
    double ms = -1;
    JSValue next = JS_Call(context, ours.next_timer, JS_UNDEFINED, 0, NULL);
    JS_ToFloat64(context, &ms, next);
    JS_FreeValue(context, next);
    return ms;
}

int waiting_run(JSValueConst promise, bool timers)
{
    for (;;) {
        if (run_microtasks() < 0)
            return -1;
        if (JS_IsPromise(promise) && JS_PromiseState(context, promise) != JS_PROMISE_PENDING)
            return 0;
        if (!timers)
            return 0;
        double ms = milliseconds_to_wait();
        if (ms < 0)
            return 0;
        if (ms > 0) {
            profile_mark(LOOK_STACK);
            host_sleep(ms);
            profile_mark(LOOK_IDLE);
        }
        JSValue done = JS_Call(context, ours.run_timer, JS_UNDEFINED, 0, NULL);
        if (JS_IsException(done))
            return -1;
        JS_FreeValue(context, done);
    }
}

/* A promise for what has a `then` of its own; every other value as it is. */
static JSValue promised(JSValue value)
{
    if (!JS_IsObject(value) || JS_IsPromise(value))
        return value;
    JSValue then = JS_GetPropertyStr(context, value, "then");
    bool thenable = JS_IsFunction(context, then);
    bool failed = JS_IsException(then);
    JS_FreeValue(context, then);
    if (failed) {
        JS_FreeValue(context, value);
        return JS_EXCEPTION;
    }
    if (!thenable)
        return value;
    JSValue promise = JS_Call(context, ours.awaited, JS_UNDEFINED, 1, (JSValueConst *)&value);
    JS_FreeValue(context, value);
    return promise;
}

JSValue waiting_settle(JSValue value, bool *never)
{
    value = promised(value);
    if (!JS_IsPromise(value))
        return value;
    JSValue settled = JS_EXCEPTION;
    if (waiting_run(value, true) == 0) {
        switch (JS_PromiseState(context, value)) {
        case JS_PROMISE_FULFILLED:
            settled = JS_PromiseResult(context, value);
            break;
        case JS_PROMISE_REJECTED:
            JS_Throw(context, JS_PromiseResult(context, value));
            break;
        default:
            *never = true;
            settled = JS_UNDEFINED;
        }
    }
    JS_FreeValue(context, value);
    return settled;
}

int waiting_unhandled(void)
{
    int64_t length = 0;
    JS_GetLength(context, unhandled, &length);
    if (length == 0)
        return 0;
    JS_Throw(context, JS_GetPropertyInt64(context, unhandled, 1));
    return -1;
}
