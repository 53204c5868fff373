# Evaluates a project's devenv.nix, the modules it imports and devenv.local.nix; gives the configuration.
{ root, inputs, imports, names }:
let
  lib = import ./minilib.nix;
  system = builtins.currentSystem;
  pkgs = import ./pkgs.nix { inherit lib system; names = lib.fromJSON names; };
  flakes = builtins.mapAttrs (_: builtins.getFlake) (lib.fromJSON inputs);
  local = path: if lib.hasPrefix "/" path then /. + path else /. + (root + "/" + path);
  entry = path: if builtins.pathExists (path + "/devenv.nix") then path + "/devenv.nix" else path;
  file = name: lib.optional (builtins.pathExists (local name)) (local name);
in
(lib.evalModules {
  specialArgs = { inherit pkgs; inputs = flakes; } // flakes;
  modules = [
    { freeformType = lib.types.anything; } # options that devenv declares and this does not: accepted, unused
    { options.devenv.root = lib.mkOption { type = lib.types.str; default = root; }; }
  ]
  ++ map (path: entry (local path)) (lib.fromJSON imports)
  ++ file "devenv.nix"
  ++ file "devenv.local.nix";
}).config
