{
  description = "The options scottylabs.kennel.* for devenv: what a project tells Kennel";
  outputs = _: { devenvModules.default = ./kennel.nix; };
}
