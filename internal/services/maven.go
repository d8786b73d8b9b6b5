package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// mavenDependency is the plugin that copies artefacts. Its version is named since
// Maven would otherwise take the newest.
const mavenDependency = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"

// javaPackages are the Debian packages for a server that comes from Maven's
// repository.
func javaPackages() []string { return []string{"openjdk-17-jre-headless", "maven"} }

// installJava installs Java and Maven from Debian where one is missing.
func installJava(ctx context.Context, s Service, say func(string)) error {
	_, java := exec.LookPath("java")
	_, maven := exec.LookPath("mvn")
	if errors.Join(java, maven) == nil {
		return nil
	}
	return install(ctx, s, say)
}

// findJars returns the directory of the jars that were fetched as name, if there is
// a java to run them.
func findJars(name string) (string, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", err
	}
	return cached(name)
}

// fetchJars takes an artefact, group:name:version, and all that it needs to run from
// Maven's repository, and puts the jars into the cache as a directory.
func fetchJars(ctx context.Context, s Service, name, artefact string, say func(string)) error {
	if err := installJava(ctx, s, say); err != nil {
		return err
	}
	part := strings.Split(artefact, ":")
	say(s.Name + ": fetching version " + part[2] + " with Maven")
	return fetchInto(ctx, name, func(ctx context.Context, jars string) error {
		dir := filepath.Dir(jars)
		project := fmt.Sprintf("<project><modelVersion>4.0.0</modelVersion>"+
			"<groupId>parley</groupId><artifactId>jars</artifactId><version>1</version><packaging>pom</packaging><dependencies>"+
			"<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>"+
			"</dependencies></project>\n", part[0], part[1], part[2])
		if err := os.WriteFile(filepath.Join(dir, "pom.xml"), []byte(project), 0o600); err != nil {
			return err
		}
		_, err := command(ctx, dir, "mvn", "-q", "-B", mavenDependency+":copy-dependencies",
			"-DincludeScope=runtime", "-DoutputDirectory="+jars)
		return err
	})
}
