;; Makes ASCII letters capitals, by the interface from bytes to bytes of docs/guests.md. Room for 1 MiB.
(module
  (memory (export "memory") 17)
  (func (export "stockade_alloc") (param $length i32) (result i32)
    i32.const 65536)
  (func (export "upper") (param $at i32) (param $length i32) (result i64)
    (local $next i32) (local $end i32) (local $byte i32)
    (local.set $next (local.get $at))
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (block $done
      (loop $again
        (br_if $done (i32.ge_u (local.get $next) (local.get $end)))
        (local.set $byte (i32.load8_u (local.get $next)))
        (if (i32.lt_u (i32.sub (local.get $byte) (i32.const 97)) (i32.const 26))
          (then (i32.store8 (local.get $next) (i32.sub (local.get $byte) (i32.const 32)))))
        (local.set $next (i32.add (local.get $next) (i32.const 1)))
        (br $again)))
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
      (i64.extend_i32_u (local.get $length)))))
