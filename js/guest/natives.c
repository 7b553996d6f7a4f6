/* What our JavaScript is built on: the few things that JavaScript cannot do, or not fast enough. */
#include <string.h>

#include "engine.h"

/* log(level, text): one line of the job's log. */
static JSValue native_log(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    int32_t level = 0;
    JS_ToInt32(c, &level, argv[0]);
    size_t length;
    const char *text = JS_ToCStringLen(c, &length, argv[1]);
    if (!text)
        return JS_EXCEPTION;
    uint8_t *request = js_malloc(c, length + 1);
    if (request) {
        request[0] = (uint8_t)level;
        memcpy(request + 1, text, length);
        host_call(OPERATION_LOG, request, (uint32_t)length + 1, NULL, 0);
        js_free(c, request);
    }
    JS_FreeCString(c, text);
    return request ? JS_UNDEFINED : JS_EXCEPTION;
}

/* call(operation, request): what the host replies, a string, or undefined if it refuses. */
static JSValue native_call(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    uint32_t operation = 0;
    JS_ToUint32(c, &operation, argv[0]);
    size_t length;
    const char *request = JS_ToCStringLen(c, &length, argv[1]);
    if (!request)
        return JS_EXCEPTION;
    char small[512];
    int32_t replied = host_call(operation, request, (uint32_t)length, small, sizeof small);
    JS_FreeCString(c, request);
    if (replied < 0)
        return JS_UNDEFINED;
    if ((size_t)replied <= sizeof small)
        return JS_NewStringLen(c, small, (size_t)replied);
    char *large = js_malloc(c, (size_t)replied);
    if (!large)
        return JS_EXCEPTION;
    int32_t again = host_call(operation, NULL, 0, large, (uint32_t)replied);
    JSValue reply = again == replied ? JS_NewStringLen(c, large, (size_t)replied) : JS_UNDEFINED;
    js_free(c, large);
    return reply;
}

/* clock(which): microseconds. */
static JSValue native_clock(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    uint32_t which = CLOCK_OF_THE_WALL;
    JS_ToUint32(c, &which, argv[0]);
    return JS_NewFloat64(c, host_clock(which));
}

/* fill(bytes): fills a Uint8Array with random bytes. */
static JSValue native_fill(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    size_t length;
    uint8_t *bytes = JS_GetUint8Array(c, &length, argv[0]);
    if (!bytes && length)
        return JS_EXCEPTION;
    if (length)
        host_random(bytes, (uint32_t)length);
    return JS_UNDEFINED;
}

/* encode(text): its bytes in UTF-8, a Uint8Array. The text must be well-formed. */
static JSValue native_encode(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    size_t length;
    const char *text = JS_ToCStringLen(c, &length, argv[0]);
    if (!text)
        return JS_EXCEPTION;
    JSValue bytes = JS_NewUint8ArrayCopy(c, (const uint8_t *)text, length);
    JS_FreeCString(c, text);
    return bytes;
}

/* Length of the UTF-8 sequence at `at`, or minus the length of what must be replaced by one U+FFFD. Which that is
 * follows the encoding standard: the longest beginning of a sequence that could still have become one. */
static int sequence_at(const uint8_t *at, const uint8_t *end)
{
    uint8_t first = at[0], low = 0x80, high = 0xbf;
    int wanted;
    if (first < 0x80)
        return 1;
    if (first < 0xc2 || first > 0xf4)
        return -1;
    wanted = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;
    for (int had = 1; had <= wanted; had++) {
        if (at + had >= end || at[had] < low || at[had] > high)
            return -had;
        low = 0x80;
        high = 0xbf;
    }
    return wanted + 1;
}

/* decode(bytes, fatal): the text that a Uint8Array is in UTF-8; null if `fatal` and it is none. */
static JSValue native_decode(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    static const uint8_t replacement[3] = {0xef, 0xbf, 0xbd};
    size_t length;
    const uint8_t *bytes = JS_GetUint8Array(c, &length, argv[0]);
    if (!bytes && length)
        return JS_EXCEPTION;
    bool fatal = JS_ToBool(c, argv[1]);
    const uint8_t *end = bytes + length, *at = bytes;
    size_t wrong = 0;
    while (at < end) {
        int step = sequence_at(at, end);
        wrong += step < 0;
        at += step < 0 ? -step : step;
    }
    if (!wrong)
        return JS_NewStringLen(c, (const char *)bytes, length);
    if (fatal)
        return JS_NULL;
    uint8_t *whole = js_malloc(c, length + wrong * sizeof replacement);
    if (!whole)
        return JS_EXCEPTION;
    uint8_t *to = whole;
    for (at = bytes; at < end;) {
        int step = sequence_at(at, end);
        const uint8_t *from = step < 0 ? replacement : at;
        size_t count = step < 0 ? sizeof replacement : (size_t)step;
        memcpy(to, from, count);
        to += count;
        at += step < 0 ? -step : step;
    }
    JSValue text = JS_NewStringLen(c, (const char *)whole, (size_t)(to - whole));
    js_free(c, whole);
    return text;
}

/* incomplete(bytes): how many bytes at the end are the beginning of a sequence that may yet go on. */
static JSValue native_incomplete(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    size_t length;
    const uint8_t *bytes = JS_GetUint8Array(c, &length, argv[0]);
    if (!bytes)
        return length ? JS_EXCEPTION : JS_NewInt32(c, 0);
    const uint8_t *end = bytes + length;
    for (int back = 1; back <= 3 && (size_t)back <= length; back++) {
        const uint8_t *at = end - back;
        if ((*at & 0xc0) == 0x80)
            continue;
        /* All that is there fits, and more was wanted. */
        if (*at >= 0xc2 && *at <= 0xf4 && sequence_at(at, end) == -back &&
            back < (*at < 0xe0 ? 2 : *at < 0xf0 ? 3 : 4))
            return JS_NewInt32(c, back);
        break;
    }
    return JS_NewInt32(c, 0);
}

/* kind(value): "proxy", "promise" with its state, or undefined: what the console cannot see from JavaScript without
 * running code of the script's. */
static JSValue native_kind(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    if (JS_IsProxy(argv[0]))
        return JS_NewString(c, "Proxy");
    switch (JS_PromiseState(c, argv[0])) {
    case JS_PROMISE_PENDING:
        return JS_NewString(c, "Promise { <pending> }");
    case JS_PROMISE_FULFILLED:
        return JS_NewString(c, "Promise { <fulfilled> }");
    case JS_PROMISE_REJECTED:
        return JS_NewString(c, "Promise { <rejected> }");
    default:
        return JS_UNDEFINED;
    }
}

JSValue natives_object(JSContext *c)
{
    static const JSCFunctionListEntry functions[] = {
        JS_CFUNC_DEF("log", 2, native_log),
        JS_CFUNC_DEF("call", 2, native_call),
        JS_CFUNC_DEF("clock", 1, native_clock),
        JS_CFUNC_DEF("fill", 1, native_fill),
        JS_CFUNC_DEF("encode", 1, native_encode),
        JS_CFUNC_DEF("decode", 2, native_decode),
        JS_CFUNC_DEF("incomplete", 1, native_incomplete),
        JS_CFUNC_DEF("kind", 1, native_kind),
        JS_CFUNC_DEF("frames", 1, failure_frames),
        JS_CFUNC_DEF("random", 0, host_math_random),
    };
    JSValue object = JS_NewObjectProto(c, JS_NULL);
    JS_SetPropertyFunctionList(c, object, functions, sizeof functions / sizeof functions[0]);
    return object;
}
