;; Two functions and no _start: which to call must be said.
;; Expected: invalid_module, no_entry, unless an entry is named; `--entry twice 21` gives 42.
(module
  (func (export "twice") (param i64) (result i64) (i64.mul (local.get 0) (i64.const 2)))
  (func (export "thrice") (param i64) (result i64) (i64.mul (local.get 0) (i64.const 3))))
