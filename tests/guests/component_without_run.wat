;; A component that is not a command.
;; Expected: invalid_module, no_entry.
(component)
