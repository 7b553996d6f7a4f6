;; Its only function takes what no caller outside can give.
;; Expected: invalid_module, entry_signature.
(module
  (func (export "hold") (param funcref) (result i32) (ref.is_null (local.get 0))))
