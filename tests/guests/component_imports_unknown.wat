;; A component that wants an interface nobody offers.
;; Expected: invalid_module, naming evil:corp/backdoor.
(component
  (import "evil:corp/backdoor@1.0.0" (instance $b (export "open" (func))))
  (core func $open (canon lower (func $b "open")))
  (core module $m
    (import "b" "open" (func $open))
    (func (export "run") (result i32) (call $open) (i32.const 0)))
  (core instance $m (instantiate $m (with "b" (instance (export "open" (func $open))))))
  (func $run (result (result)) (canon lift (core func $m "run")))
  (instance $i (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $i)))
