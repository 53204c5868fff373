# Declares scottylabs.* and writes kennel.json, version 1, into scottylabs.kennel.config.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkEnableOption mkOption types;
  cfg = config.scottylabs;

  customDomain = mkOption {
    type = types.nullOr types.str;
    default = null;
    description = "Host name of the production deployment, beside the generated one.";
  };

  healthCheck = types.submodule {
    options = {
      path = mkOption { type = types.str; default = "/api/health"; };
      timeout = mkOption { type = types.nullOr types.int; default = null; description = "Seconds."; };
    };
  };

  service = types.submodule {
    options = {
      inherit customDomain;
      healthCheck = mkOption {
        type = types.nullOr (types.either (types.enum [ "none" ]) healthCheck);
        default = null;
        description = ''How Kennel tells that the service is up: null is GET /api/health, "none" is no check.'';
      };
      oidc.redirectPaths = mkOption { type = types.listOf types.str; default = [ ]; };
    };
  };

  site = types.submodule {
    options = {
      inherit customDomain;
      spa = mkOption { type = types.bool; default = false; description = "Unknown paths get index.html."; };
      packageAttr = mkOption { type = types.nullOr types.str; default = null; description = "Default: the name."; };
    };
  };

  serviceJson = _: s: {
    custom_domain = s.customDomain;
    health_check = s.healthCheck;
    oidc = if s.oidc.redirectPaths == [ ] then null else { redirect_paths = s.oidc.redirectPaths; };
  };

  siteJson = name: s: {
    inherit (s) spa;
    custom_domain = s.customDomain;
    package_attr = if s.packageAttr == null then name else s.packageAttr;
  };

  secretspec = /. + (config.devenv.root + "/secretspec.toml");
in
{
  options.scottylabs = {
    enable = mkEnableOption "what ScottyLabs projects share";
    project.name = mkOption { type = types.str; };
    postgres.enable = mkEnableOption "a PostgreSQL database for each ref";
    valkey.enable = mkEnableOption "a Valkey for each ref";
    garage.enable = mkEnableOption "an S3 bucket for each ref";
    kennel = {
      services = mkOption { type = types.attrsOf service; default = { }; };
      sites = mkOption { type = types.attrsOf site; default = { }; };
      previewDeployments = mkOption { type = types.bool; default = true; };
      requestedResources = mkOption { type = types.listOf types.str; default = [ ]; internal = true; };
      config = mkOption { type = types.package; readOnly = true; };
    };
  };

  config = lib.mkIf cfg.enable {
    scottylabs.kennel.requestedResources =
      lib.optional cfg.postgres.enable "postgres"
      ++ lib.optional cfg.valkey.enable "valkey"
      ++ lib.optional cfg.garage.enable "garage";

    scottylabs.kennel.config = pkgs.runCommand "kennel-config"
      {
        json = builtins.toJSON {
          version = 1;
          services = builtins.mapAttrs serviceJson cfg.kennel.services;
          static_sites = builtins.mapAttrs siteJson cfg.kennel.sites;
          preview_deployments = cfg.kennel.previewDeployments;
          resources = cfg.kennel.requestedResources;
        };
        passAsFile = [ "json" ];
      }
      ''
        mkdir -p $out
        cp $jsonPath $out/kennel.json
        ${lib.optionalString (builtins.pathExists secretspec) "cp ${secretspec} $out/secretspec.toml"}
      '';
  };
}
