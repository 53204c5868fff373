{ inputs, pkgs, ... }:
{
  imports = [ inputs.scottylabs.devenvModules.default ];

  packages = [ pkgs.python3 ];

  scottylabs = {
    enable = true;
    project.name = "hello";

    # Each service and site has a package of the same name in flake.nix.
    kennel.services.api.healthCheck.timeout = 10; # seconds until GET /api/health must have answered 2xx
    kennel.services.worker.healthCheck = { path = "/healthz"; timeout = 20; };

    kennel.sites.docs = { };
    kennel.sites.app.spa = true; # paths without a file get index.html
  };
}
