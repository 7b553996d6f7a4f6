//! Nothing: this package only pins where C sources come from.
