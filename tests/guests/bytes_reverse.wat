;; The byte interface at its smallest: returns its input backwards.
;; Expected: completed; the output is the input reversed.
(module
  (memory (export "memory") 64)
  (func (export "stockade_alloc") (param i32) (result i32)
    (select (i32.const 65536) (i32.const 0) (i32.le_u (local.get 0) (i32.const 4128768))))
  (func (export "reverse") (param $at i32) (param $bytes i32) (result i64)
    (local $left i32)
    (local $right i32)
    (local $byte i32)
    (local.set $left (local.get $at))
    (local.set $right (i32.add (local.get $at) (local.get $bytes)))
    (block $done
      (loop $swap
        (local.set $right (i32.sub (local.get $right) (i32.const 1)))
        (br_if $done (i32.ge_s (local.get $left) (local.get $right)))
        (local.set $byte (i32.load8_u (local.get $left)))
        (i32.store8 (local.get $left) (i32.load8_u (local.get $right)))
        (i32.store8 (local.get $right) (local.get $byte))
        (local.set $left (i32.add (local.get $left) (i32.const 1)))
        (br $swap)))
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $bytes)))))
