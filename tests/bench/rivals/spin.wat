;; Two million steps of a generator of numbers, none of which can be left out.
(module
  (func (export "spin") (result i32)
    (local $left i32) (local $value i32)
    (local.set $left (i32.const 2000000))
    (loop $again
      (local.set $value
        (i32.add (i32.mul (local.get $value) (i32.const 1664525)) (i32.const 1013904223)))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (local.get $value)))
