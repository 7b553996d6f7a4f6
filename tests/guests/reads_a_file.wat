;; Copies the file its argument names, seen from the first granted directory, to its output.
;; Expected: completed when it may be read; else guest_error with the error's number in WASI as the exit status
;; (8 nothing is granted, 44 not there, 63 or 76 not allowed).
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $exit (local.get $errno)))))
  (func $length (param $at i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $at))
    (loop $next
      (if (i32.load8_u (local.get $end))
        (then (local.set $end (i32.add (local.get $end) (i32.const 1))) (br $next))))
    (i32.sub (local.get $end) (local.get $at)))
  (func (export "_start")
    (local $path i32)
    ;; Pointers to the arguments go to 1024, the arguments to 4096, the file's descriptor to 0.
    (call $check (call $args (i32.const 1024) (i32.const 4096)))
    (local.set $path (i32.load (i32.const 1028)))
    (call $check (call $open (i32.const 3) (i32.const 1) (local.get $path) (call $length (local.get $path))
      (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))
    (i32.store (i32.const 8) (i32.const 65536))
    (loop $chunk
      (i32.store (i32.const 12) (i32.const 65536))
      (call $check (call $read (i32.load (i32.const 0)) (i32.const 8) (i32.const 1) (i32.const 16)))
      (i32.store (i32.const 12) (i32.load (i32.const 16)))
      (if (i32.load (i32.const 16))
        (then
          (call $check (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 20)))
          (br $chunk))))))
