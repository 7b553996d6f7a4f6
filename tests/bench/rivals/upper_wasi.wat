;; Makes ASCII letters capitals: from standard input to standard output, for runtimes that are commands. Room for 1 MiB.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 18)
  (func (export "_start")
    (local $length i32) (local $next i32) (local $byte i32)
    (block $end
      (loop $more
        (i32.store (i32.const 0) (i32.add (i32.const 65536) (local.get $length)))
        (i32.store (i32.const 4) (i32.sub (i32.const 1048577) (local.get $length)))
        (br_if $end (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br_if $end (i32.eqz (i32.load (i32.const 8))))
        (local.set $length (i32.add (local.get $length) (i32.load (i32.const 8))))
        (br $more)))
    (block $done
      (loop $again
        (br_if $done (i32.ge_u (local.get $next) (local.get $length)))
        (local.set $byte (i32.load8_u offset=65536 (local.get $next)))
        (if (i32.lt_u (i32.sub (local.get $byte) (i32.const 97)) (i32.const 26))
          (then (i32.store8 offset=65536 (local.get $next) (i32.sub (local.get $byte) (i32.const 32)))))
        (local.set $next (i32.add (local.get $next) (i32.const 1)))
        (br $again)))
    (local.set $next (i32.const 0))
    (block $written
      (loop $more
        (br_if $written (i32.ge_u (local.get $next) (local.get $length)))
        (i32.store (i32.const 0) (i32.add (i32.const 65536) (local.get $next)))
        (i32.store (i32.const 4) (i32.sub (local.get $length) (local.get $next)))
        (br_if $written (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $next (i32.add (local.get $next) (i32.load (i32.const 8))))
        (br $more)))))
