package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"

	"github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// runPush copies one image of an OCI archive to a registry, with the credentials that `docker login` or `helm registry
// login` left. A registry on this machine's loopback is spoken to without TLS.
func runPush() error {
	if len(os.Args) != 4 {
		return errors.New("usage: kubebox push ARCHIVE DESCRIPTOR REGISTRY/REPOSITORY:TAG")
	}
	var image v1.Descriptor
	if err := json.Unmarshal([]byte(os.Args[2]), &image); err != nil {
		return err
	}
	ctx := context.Background()
	archive, err := oci.NewFromTar(ctx, os.Args[1])
	if err != nil {
		return err
	}
	repository, err := remote.NewRepository(os.Args[3])
	if err != nil {
		return err
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return err
	}
	repository.PlainHTTP = onLoopback(repository.Reference.Host())
	repository.Client = &auth.Client{
		Client:     retry.DefaultClient,
		Cache:      auth.NewCache(),
		Credential: credentials.Credential(store),
	}
	if err := oras.CopyGraph(ctx, archive, repository, image, oras.DefaultCopyGraphOptions); err != nil {
		return err
	}
	return repository.Tag(ctx, image, repository.Reference.Reference)
}

func onLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	address := net.ParseIP(host)
	return host == "localhost" || (address != nil && address.IsLoopback())
}
